"""Runs cases of one target in this process and prints what breaks a promise, a line of JSON each.

    python -m tests.fuzz.worker image --first 0 --count 100 [--seed 0] [--keep FOLDER]

A case depends on the target, the seed and its number alone. A command must end with exit code 0, 1 or 2,
say one line where it refuses, take less than ten seconds (of the processor) and a gigabyte, write only in
the folder of the case, and run no code of a file.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import io
import json
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from . import targets

SECONDS = 10.0
MEGABYTES = 1024
FORBIDDEN = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.startfile",
    "subprocess.Popen",
    "socket.connect",
    "pty.spawn",
)
WRITES = (
    "os.mkdir",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "shutil.rmtree",
)


class Guard:
    """Notes what a case does outside its folder."""

    def __init__(self) -> None:
        self.folder: str | None = None
        self.seen: list[str] = []
        self.harmless = (
            tempfile.gettempdir() + "/tmp",
            tempfile.gettempdir() + "/torchinductor",
            "/dev/null",
            "/dev/shm",
            "/proc",
        )

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if self.folder is None:
            return
        if event in FORBIDDEN:
            self.seen.append(f"{event}{args[:1]}")
        elif event == "open" and isinstance(args[0], str | bytes | os.PathLike):
            mode, flags = args[1], args[2]
            writes = (
                any(c in mode for c in "wax+") if isinstance(mode, str) else flags & (os.O_WRONLY | os.O_RDWR)
            )
            if writes:
                self._outside(event, args[0])
        elif event in WRITES and isinstance(args[0], str | bytes | os.PathLike):
            if isinstance(args[-1], int) and args[-1] >= 0:
                return  # below a folder that is open, which was looked at when it was opened
            self._outside(event, args[0])

    def _outside(self, event: str, path: Any) -> None:
        full = os.path.abspath(os.fsdecode(path))  # noqa: PTH100 (without following links)
        assert self.folder is not None
        if not full.startswith((self.folder, *self.harmless)) and "__pycache__" not in full:
            self.seen.append(f"{event} {full}")


def peak() -> float:
    """Megabytes of memory at the highest since the last call."""
    text = Path("/proc/self/status").read_text()
    value = next(int(line.split()[1]) for line in text.splitlines() if line.startswith("VmHWM"))
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return value / 1024


def run_one(case: targets.Case, guard: Guard, folder: Path) -> list[str]:
    """What is wrong with the outcome of a case."""
    from maskconver.cli.main import main

    before = Path.cwd()
    out, err = io.StringIO(), io.StringIO()
    wrong: list[str] = []
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20
    peak()
    start = time.process_time()
    faulthandler.dump_traceback_later(20 * SECONDS, exit=True)  # it sleeps, or the machine is busy
    guard.folder, guard.seen = str(folder), []
    code: int | None = None
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(case.argv)
    except BaseException:  # a finding
        wrong.append(traceback.format_exc(limit=-4))
    guard.folder = None
    faulthandler.cancel_dump_traceback_later()
    seconds, memory = time.process_time() - start, peak() - resident
    if code is not None and code not in (0, 1, 2):
        wrong.append(f"exit code {code}: {err.getvalue()[-300:]}")
    if "Traceback" in err.getvalue():
        wrong.append(f"a traceback: {err.getvalue()[-1500:]}")
    said = [line for line in err.getvalue().splitlines() if line and ": warning: " not in line]
    if code == 2 and len(said) != 1:
        wrong.append(f"{len(said)} lines: {said[:3]}")
    if code == 2 and said and len(said[0]) > 3000:
        wrong.append(f"a line of {len(said[0])} characters: {said[0][:200]}")
    if seconds > SECONDS:
        wrong.append(f"took {seconds:.1f} s")
    if memory > MEGABYTES:
        wrong.append(f"took {memory:.0f} MB")
    if (folder / "CANARY").exists():
        wrong.append("code of a file was run")
    wrong += guard.seen
    if code == 0 and not wrong:
        try:
            case.check()
        except BaseException:
            wrong.append("wrong result: " + traceback.format_exc(limit=-3))
    os.chdir(before)
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("target")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", help="keep the input of the first case here")
    args = parser.parse_args()
    base = Path(tempfile.mkdtemp(prefix="fuzz"))
    os.chdir(base)
    seeds = base / "seeds"
    seeds.mkdir()
    try:
        targets.make(args.target, seeds)
        _runtime_of_bright_and_dark()
        _load_libraries(args.target)
        limit = int(Path("/proc/self/statm").read_text().split()[0]) * 4096 + (3 << 30)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))  # protects the machine
        guard = Guard()
        sys.addaudithook(guard)
        for number in range(args.first, args.first + args.count):
            rng = random.Random(f"{args.target} {args.seed} {number}")
            folder = base / f"case{number}"
            folder.mkdir()
            case = targets.case(args.target, seeds, folder, rng)
            print(json.dumps({"case": number, "argv": case.argv}), flush=True)
            if args.keep:
                shutil.copytree(folder, args.keep)
                print(json.dumps({"seeds": str(shutil.copytree(seeds, Path(args.keep) / "seeds"))}))
                args.keep = None
            wrong = run_one(case, guard, folder)
            if wrong:
                print(json.dumps({"case": number, "wrong": wrong, "argv": case.argv}), flush=True)
            shutil.rmtree(folder, ignore_errors=True)
        print(json.dumps({"done": args.count}), flush=True)
    finally:
        os.chdir("/")
        shutil.rmtree(base, ignore_errors=True)


def _runtime_of_bright_and_dark() -> None:
    """A model called `fake`, so that reading and writing are tested and no network."""
    from maskconver.inference import predictor
    from tests.fakes import FakeRuntime

    real = predictor.open_runtime

    def open_runtime(model: Any, *args: Any, **options: Any) -> Any:
        return FakeRuntime() if model == "fake" else real(model, *args, **options)

    predictor.open_runtime = open_runtime  # type: ignore[assignment]


def _load_libraries(target: str) -> None:
    """What a first case would load, which is no memory of the case's."""
    import imagecodecs  # noqa: F401
    import tifffile  # noqa: F401

    from maskconver.inference import predictor  # noqa: F401

    if target in ("model", "onnx", "tflite", "checkpoint", "recipe"):
        import torch  # noqa: F401

        from maskconver.models import checkpoint  # noqa: F401
    if target in ("recipe", "checkpoint"):
        import maskconver.training.run  # noqa: F401
    if target == "onnx":
        import onnxruntime  # noqa: F401


if __name__ == "__main__":
    main()
