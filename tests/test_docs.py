"""What the documentation shows is true: commands, options, examples, links, messages, words."""

from __future__ import annotations

import io
import re
import runpy
import shlex
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskconver.cli.main import COMMANDS, main

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(p for p in DOCS.rglob("*.md"))]
GENERATED = {"reference/commands.md"}  # by docs/reference/make_commands.py, when the site is built
PAGES = [page for page in PAGES if page.relative_to(ROOT).as_posix().removeprefix("docs/") not in GENERATED]
RECIPES = sorted((ROOT / "src/maskconver/recipes").glob("*.yaml"))
CARDS = sorted((ROOT / "src/maskconver/weights").glob("*.md"))
READ_BY_USERS = [*PAGES, *RECIPES, *CARDS, ROOT / "CHANGELOG.md"]
NEEDS_TORCH = ("train", "evaluate", "models", "figure targets")


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


each_page = pytest.mark.parametrize("page", PAGES, ids=name_of)


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text_of(page), re.S | re.M)


def prose(page: Path) -> str:
    """The page without its code."""
    text = re.sub(r"^```.*?^```", "", text_of(page), flags=re.S | re.M)
    return re.sub(r"`[^`\n]*`", "", text)


def shown() -> list[str]:
    """All `maskconver …` command lines of pages, cards, recipes and the commands' own help."""
    lines: list[str] = []
    for page in [*PAGES, *CARDS]:
        for block in blocks(page, "bash"):
            lines += [line for line in block.splitlines() if line.startswith("maskconver ")]
    for recipe in RECIPES:
        lines += re.findall(r"^# (maskconver .*)$", text_of(recipe), re.M)
    for module, _ in COMMANDS.values():
        text = text_of(ROOT / f"src/maskconver/cli/{module.replace('.', '/')}.py")
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


@pytest.fixture(scope="module")
def helps() -> str:
    """The help of all commands, and of training one model of each kind."""
    pytest.importorskip("torch")
    with redirect_stdout(io.StringIO()) as text:
        for name in COMMANDS:
            main([*name.split(), "--help"])
        for model in ("maskconver_r50_640", "remax_t"):
            main(["train", "--model.name", model, "--help"])
    return text.getvalue().replace("_", "-")


OPTION = re.compile(r"(?<![\w-])--[A-Za-z][\w.-]*")
OURS = [p for p in PAGES if p.parent.name == "tasks" or p.stem in ("README", "index", "models", "tutorial")]
OURS += [DOCS / "troubleshooting.md", DOCS / "datasets.md"]


@pytest.mark.parametrize("page", OURS, ids=name_of)
def test_options_named_in_the_text_exist(page: Path, helps: str) -> None:
    spans = [
        s for s in re.findall(r"`([^`\n]*)`", text_of(page)) if not re.match(r"(make|hf|tensorboard)\b", s)
    ]
    options = {option for span in spans for option in re.findall(r"(?<![\w-])--[A-Za-z][\w.-]*", span)}
    known = set(re.findall(r"(?<![\w-])--[A-Za-z][\w.-]*", helps)) | {
        "--debug",
        "--version",
        "--data",
        "--help",
    }
    assert {o for o in options if o.replace("_", "-") not in known} == set()


@each_page
def test_make_targets_that_are_named_exist(page: Path) -> None:
    text = text_of(page)
    named = set(re.findall(r"^make ([a-z-]+)", text, re.M)) | set(re.findall(r"`make ([a-z-]+)`", text))
    assert named <= set(re.findall(r"^([a-z-]+):", text_of(ROOT / "Makefile"), re.M))


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text_of(page), flags=re.S | re.M), re.M)
    plain = [re.sub(r"[^\w\s-]", "", title).strip().lower() for title in titles]
    return {re.sub(r"[-\s]+", "-", title) for title in plain}


@pytest.mark.parametrize("page", [*PAGES, *CARDS, ROOT / "CHANGELOG.md"], ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"^```.*?^```", "", text_of(page), flags=re.S | re.M)):
        file, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = (page.parent / file).resolve() if file else page
        if target.is_relative_to(DOCS) and target.relative_to(DOCS).as_posix() in GENERATED:
            continue
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_pages_link_only_to_pages_of_the_site() -> None:
    for page in DOCS.rglob("*.md"):
        links = [link for link in re.findall(r"\]\(([^)#\s]+)", text_of(page)) if "://" not in link]
        assert [link for link in links if not (page.parent / link).resolve().is_relative_to(DOCS)] == [], page


def test_every_page_is_in_the_navigation() -> None:
    navigation = set(re.findall(r"([\w/-]+\.md)", text_of(ROOT / "mkdocs.yml")))
    assert {name_of(p).removeprefix("docs/") for p in PAGES if DOCS in p.parents} | GENERATED == navigation


@pytest.mark.parametrize("page", READ_BY_USERS, ids=name_of)
def test_words_that_only_insiders_understand_are_absent(page: Path) -> None:
    text = text_of(page)
    assert (
        re.findall(r"\.\./shared|/work/|/home/\w+|(?:reference|mobile|kmax|multi-scale) page\b", text) == []
    )
    targets = r"\(bar |\(asked|[Aa]sked were|bar on a CPU|, aim |\*\*missed|are missed"
    assert re.findall(targets, text) == []
    spoken = prose(page) if page.suffix == ".md" else "\n".join(re.findall(r"#.*", text))
    assert re.findall(r"\b(?:pictures?|sooner|mends?|canvas(?:es)?|unvaried)\b", spoken) == []


def test_readme_shows_what_its_example_prints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,), (output, *_) = blocks(ROOT / "README.md", "python"), blocks(ROOT / "README.md", "text")
    with redirect_stdout(io.StringIO()) as printed:
        exec(compile(code, "README.md", "exec"), {})
    numbers = re.compile(r"(?<=score=)[\d.]+")  # the last digits of a score differ between runtimes
    assert numbers.sub("", printed.getvalue()) == numbers.sub("", output)
    assert (tmp_path / "cells.png").exists()


@each_page
def test_python_examples_compile(page: Path) -> None:
    for code in blocks(page, "python"):
        compile(code, page.name, "exec")


def nuclei(folder: Path) -> None:
    """Data as the Data Science Bowl ships it: two images with one mask each."""
    for name in ("a", "b"):
        for kind in ("images", "masks"):
            (folder / "stage1_train" / name / kind).mkdir(parents=True)
        Image.new("RGB", (40, 30)).save(folder / f"stage1_train/{name}/images/{name}.png")
        mask = np.zeros((30, 40), np.uint8)
        mask[5:15, 5:15] = 255
        Image.fromarray(mask).save(folder / f"stage1_train/{name}/masks/1.png")


def generated(folder: Path) -> None:
    """What `data synth` writes."""
    for split in ("train", "val"):
        arguments = ["data", "synth", "my_data", "--count", "2", "--size", "48", "64", "--split", split]
        assert main(arguments) == 0


# Pages whose examples run, and what they need in the folder. The others need files, a network or a runtime.
RUN = {
    "docs/migrate/transformers.md": None,
    "docs/migrate/metrics.md": None,
    "docs/datasets.md": nuclei,
    "docs/tasks/data.md": generated,
    "docs/tasks/evaluate.md": None,
    "docs/tasks/predict.md": None,
    "docs/tasks/large.md": None,
    "docs/tasks/programs.md": None,
    "docs/tasks/video.md": None,
}
MAKES = {"docs/datasets.md": "my_data"}


@pytest.mark.parametrize("name", RUN)
def test_python_examples_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    if name == "docs/tasks/video.md":
        pytest.importorskip("av", reason="needs the extra video (PyAV)")
    monkeypatch.chdir(tmp_path)
    if (make := RUN[name]) is not None:
        make(tmp_path)
    space: dict[str, object] = {}
    for code in blocks(ROOT / name, "python"):
        exec(compile(code, name, "exec"), space)
    printed = capsys.readouterr().out.split()
    for value in re.findall(r"print\(.*\)  # (\d\.\d+)", "".join(blocks(ROOT / name, "python"))):
        assert value in printed
    if name in MAKES:  # a data set without defects
        assert main(["data", "check", MAKES[name]]) == 0, capsys.readouterr().out


def test_models_are_created_as_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    for code in blocks(DOCS / "models.md", "python"):
        exec(compile(code, "models.md", "exec"), {})
    assert (tmp_path / "model.safetensors").exists()


def messages() -> list[str]:
    rows = re.findall(r"^\| (`[^|]*`) \|", text_of(DOCS / "troubleshooting.md"), re.M)
    return [words for row in rows for words in re.findall(r"`([^`]*)`", row)]


@pytest.mark.parametrize("words", messages())
def test_messages_of_the_troubleshooting_page_exist(words: str) -> None:
    sources = "\n".join(text_of(p) for p in sorted((ROOT / "src").rglob("*.py")))
    assert words in re.sub(r'"\s*\n\s*f?"', "", sources)


def test_every_public_name_is_in_the_python_reference() -> None:
    page = text_of(DOCS / "reference/api.md")
    documented = set(re.findall(r"^::: maskconver(?:\.[\w.]+)?\.(\w+)$", page, re.M))
    stub = text_of(ROOT / "src/maskconver/__init__.pyi")
    data = text_of(ROOT / "src/maskconver/data/__init__.py")
    public = set(re.findall(r"import (\w+) as \1$", stub, re.M)) - {"data"}
    public |= {name for names in re.findall(r'": \[(.*)\]', data) for name in re.findall(r'"(\w+)"', names)}
    assert public <= documented


def test_command_line_reference_describes_every_command() -> None:
    pytest.importorskip("torch")
    page = runpy.run_path(str(DOCS / "reference/make_commands.py"))["page"]()
    for name in COMMANDS:
        assert f"## {name}\n\n```text\nusage: maskconver {name}" in page
    assert "--score-threshold" in page


def test_the_map_of_the_code_names_files_and_functions_that_there_are() -> None:
    rows = re.findall(r"^\| [^|`]+ \| (`[^|]+) \| ([^|]+) \|$", text_of(ROOT / "CONTRIBUTING.md"), re.M)
    assert len(rows) > 15
    for where, names in rows:
        paths = [*re.findall(r"`([^`]+)`", where), *re.findall(r"`([^`]+/[^`]+)`", names)]
        found = [
            p
            for p in (base / path for path in paths for base in (ROOT, ROOT / "src/maskconver"))
            if p.exists()
        ]
        assert len(found) == len(paths), paths
        files = [f for p in found for f in ([p] if p.is_file() else p.glob("*.py"))]
        code = "\n".join(map(text_of, files))
        for name in re.findall(r"`@?(\w+)(?:\.(?!py)\w+)?`", names):
            assert re.search(rf"(def|class) {name}\b|@{name}\b", code), name


PROMISES = (DOCS / "reliability.md", ROOT / "SECURITY.md")


@pytest.mark.parametrize("page", PROMISES, ids=name_of)
def test_every_promise_names_a_test_that_there_is(page: Path) -> None:
    named = re.findall(r"`(tests/[\w/.]+)(?:::(\w+))?`", text_of(page))
    assert named
    for path, function in named:
        assert (ROOT / path).exists(), f"{page.name}: {path}"
        assert not function or f"def {function}(" in (ROOT / path).read_text(encoding="utf-8"), function
    for table in re.findall(r"(?:^\|.*\n)+", text_of(page), re.MULTILINE):
        head, _, *rows = table.splitlines()
        for row in rows if "test" in [cell.strip() for cell in head.split("|")] else ():
            promise = not any(word in row for word in ("| no:", "not tested by us", "| – |"))
            assert "`tests/" in row or not promise, f"{page.name}: {row}"


def test_the_fuzz_targets_that_promises_name_are_there() -> None:
    from tests.fuzz.targets import SHARES

    for page in PROMISES:
        for names in re.findall(r"tests/fuzz`[^.|]*?targets ((?:`\w+`(?:, | and )?)+)", text_of(page)):
            assert set(re.findall(r"`(\w+)`", names)) <= set(SHARES), names
