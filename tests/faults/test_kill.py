"""Commands are killed at random moments: nothing half-written passes for whole, and the rest can be done."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from .commands import Command, commands, digest, finish, start

KILLS = int(os.environ.get("MASKCONVER_KILLS", "10"))  # in all
NAMES = ("train", "predict", "export", "convert", "synth")
SEED = int(os.environ.get("MASKCONVER_FAULT_SEED", "0"))


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that are forked")
@pytest.mark.parametrize("name", NAMES)
def test_a_killed_command_leaves_nothing_half_written(
    name: str, inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    data, model = inputs
    (command,) = (c for c in commands(data, model) if c.name == name)
    before = digest(data), model.read_bytes()
    begun = time.perf_counter()
    reference = tmp_path / "reference" / "out"
    first = finish(command.argv(reference), tmp_path / "log")
    assert first.code == 0, first.said
    seconds = time.perf_counter() - begun
    command.check(reference)
    expected = {k: v for k, v in digest(reference).items() if command.same(k)}
    rng = random.Random(f"{SEED} {name}")
    came = []
    for k in range(max(1, KILLS // len(NAMES))):
        number = (signal.SIGKILL, signal.SIGTERM)[k % 2]
        out = tmp_path / str(k) / "out"
        if command.name in ("export", "synth", "predict") and k % 4 < 2:  # over an older, whole result
            shutil.copytree(reference, out)
            more = ["--overwrite"] if name == "synth" else []
        else:
            more = []
        process = start([*command.argv(out), *more], tmp_path / "log")
        process.join(rng.uniform(0, seconds))
        assert process.pid is not None
        if process.is_alive():
            os.kill(process.pid, number)
            came.append(number)
        process.join(60)
        assert process.exitcode is not None, f"{number} does not end it"
        _check(command, out, process.exitcode, (tmp_path / "log").read_text(errors="replace"))
        if process.exitcode:
            done = _again(command, out, tmp_path)
            assert {k: v for k, v in digest(out).items() if command.same(k)} == expected, done
        shutil.rmtree(out.parent)
        assert (digest(data), model.read_bytes()) == before
    assert came or KILLS < 20, "all kills came too late"


def _check(command: Command, out: Path, code: int, said: str) -> None:
    assert code in (0, 1, 2, 143, -signal.SIGKILL, -signal.SIGTERM), said
    assert "Traceback" not in said, said
    command.check(out)
    if code == 143:  # time to tidy up
        assert not [p for p in out.rglob(".*") if p.is_file()], "temporary files are left"


def _again(command: Command, out: Path, tmp_path: Path) -> str:
    """Ends what was begun; returns what was said."""
    done = finish([*command.argv(out), *command.again], tmp_path / "log")
    finished = "has already done all 8 steps" in done.said  # killed after its last step
    assert done.code == 0 or finished, done.said
    command.check(out)
    return done.said
