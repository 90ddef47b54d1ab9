"""Spoiled files of every kind: a right answer, or one line and exit code 1 or 2."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from .targets import SHARES

ROOT = Path(__file__).parents[2]
CASES = int(os.environ.get("MASKCONVER_FUZZ_CASES", "2000"))
SEED = os.environ.get("MASKCONVER_FUZZ_SEED", "0")
NEEDS = {
    "model": "torch",
    "onnx": "onnxscript",
    "tflite": "litert_torch",
    "checkpoint": "torch",
    "recipe": "lightning",
}


def findings(target: str, count: int) -> list[str]:
    """What broke a promise; a process that dies is one finding, and the next one goes on behind it."""
    found, first = [], 0
    while first < count:
        command = [sys.executable, "-m", "tests.fuzz.worker", target, "--seed", SEED]
        command += ["--first", str(first), "--count", str(count - first)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=3600, check=False)
        rows: list[dict[str, Any]] = [
            json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")
        ]
        found += [f"{target} {row['case']}: {row['wrong']} {row['argv']}" for row in rows if "wrong" in row]
        if rows and "done" in rows[-1]:
            break
        last = next((row["case"] for row in reversed(rows) if "case" in row), None)
        assert last is not None, done.stderr[-3000:]
        found.append(f"{target} {last}: the process ended with {done.returncode}: {done.stderr[-1500:]}")
        first = last + 1
    return found


@pytest.mark.slow
@pytest.mark.parametrize("target", SHARES)
def test_spoiled_files_end_in_an_answer_or_in_one_line(target: str) -> None:
    for name in (NEEDS.get(target, "numpy"), "tifffile"):
        if find_spec(name) is None:
            pytest.skip(f"needs {name}")
    found = findings(target, max(1, round(CASES * SHARES[target])))
    assert not found, (
        f"{len(found)} findings; make one again with `python -m tests.fuzz.worker {target} --first N "
        f"--count 1 --seed {SEED}`\n" + "\n\n".join(found[:20])
    )
