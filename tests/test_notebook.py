"""The notebook's blocks run one after the other, with fewer steps: from ten images to a served model."""

from __future__ import annotations

import re
import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from maskconver.cli.main import main

PAGE = Path(__file__).parents[1] / "docs/notebooks/ten-images.md"
SMALLER = {"--steps": "4", "--val_every": "2"}


@pytest.mark.slow
def test_ten_images_become_a_served_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in ("torch", "lightning", "onnx", "onnxruntime", "uvicorn", "starlette"):
        if find_spec(module) is None:
            pytest.skip(f"needs {module}")
    monkeypatch.chdir(tmp_path)
    space: dict[str, Any] = {}
    text = PAGE.read_text(encoding="utf-8")
    try:
        for language, code in re.findall(r"^```(bash|python)\n(.*?)^```", text, re.S | re.M):
            if language == "python":
                exec(compile(code, PAGE.name, "exec"), space)
                continue
            for program, *words in map(shlex.split, code.splitlines()):
                if program == "pip":
                    continue
                words = [SMALLER.get(before, word) for before, word in zip(["", *words], words)]
                more = ["--device", "cpu", "--data.workers", "0"] if words[0] == "train" else []
                assert main([*words, *more]) == 0, f"{words}: {capsys.readouterr().err}"
    finally:
        if "server" in space:
            space["server"].kill()
    assert (tmp_path / "runs/ten/report.html").exists() and (tmp_path / "analysis.html").exists()
    assert len(space["segments"]) == len(space["result"]) > 1
    assert space["server"].returncode is not None
