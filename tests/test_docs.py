"""What the documentation shows exists: commands, make targets, pages."""

import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest

from maskconver.cli.main import COMMANDS, main

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
RECIPES = sorted((ROOT / "src/maskconver/recipes").glob("*.yaml"))
NEEDS_TORCH = ("train", "evaluate", "models")


def shown() -> list[str]:
    """All `maskconver …` command lines of pages, recipes and the commands' own help."""
    lines: list[str] = []
    for page in PAGES:
        for block in re.findall(r"^```bash\n(.*?)^```", page.read_text(encoding="utf-8"), re.S | re.M):
            lines += [line for line in block.splitlines() if line.startswith("maskconver ")]
    for recipe in RECIPES:
        lines += re.findall(r"^# (maskconver .*)$", recipe.read_text(encoding="utf-8"), re.M)
    for module, _ in COMMANDS.values():
        text = (ROOT / f"src/maskconver/cli/{module}.py").read_text(encoding="utf-8")
        lines += re.findall(r"^[Ee]xample: (maskconver .*)$", text, re.M)
    return list(dict.fromkeys(lines))


@pytest.mark.parametrize("line", shown())
def test_command_is_accepted(line: str, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    words = shlex.split(line, comments=True)[1:]
    name = next(name for name in (" ".join(words[:2]), words[0]) if name in COMMANDS)
    if name in NEEDS_TORCH:
        pytest.importorskip("torch")
    module = import_module(f"maskconver.cli.{COMMANDS[name][0]}")
    monkeypatch.setattr(module, "run", lambda args: 0)
    assert main(words) == 0, capsys.readouterr().err


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_make_targets_that_are_named_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"^make ([a-z-]+)", text, re.M)) | set(re.findall(r"`make ([a-z-]+)`", text))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert named <= set(re.findall(r"^([a-z-]+):", makefile, re.M))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_to_files_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\[[^\]]*\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


def test_every_page_is_in_the_navigation() -> None:
    navigation = set(re.findall(r"([\w/-]+\.md)", (ROOT / "mkdocs.yml").read_text(encoding="utf-8")))
    pages = {str(p.relative_to(ROOT / "docs")) for p in PAGES if ROOT / "docs" in p.parents}
    assert pages == navigation
