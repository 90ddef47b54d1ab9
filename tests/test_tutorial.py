"""The tutorial's commands run one after the other, on less data and with fewer steps."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from maskconver.cli.main import main

ROOT = Path(__file__).parents[1]
SMALLER = {"--count": "4", "--steps": "2", "--val_every": "2"}


def commands() -> list[list[str]]:
    text = (ROOT / "docs/tutorial.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.S | re.M)
    return [shlex.split(line) for block in blocks for line in block.splitlines()]


@pytest.mark.slow
def test_the_tutorial_leads_from_images_to_a_file_that_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    for module in ("torch", "litert_torch", "ai_edge_litert"):
        if find_spec(module) is None:
            pytest.skip(f"needs {module}")
    monkeypatch.chdir(tmp_path)
    for program, *words in commands():
        for i, word in enumerate(words[:-1]):
            words[i + 1] = SMALLER.get(word, words[i + 1])
        if program == "pip":
            continue
        if program == "python":
            script = str(ROOT / "examples" / words[0])
            subprocess.run([sys.executable, script, *words[1:]], check=True, timeout=300)
            continue
        if words[0] == "train":
            words += ["--device", "cpu", "--data.workers", "0"]
        assert main(words) == 0, f"{words}: {capsys.readouterr().err}"
    assert list((tmp_path / "results/overlays").glob("*.png"))
    assert (tmp_path / "model.tflite").exists() and (tmp_path / "ids.png").exists()
