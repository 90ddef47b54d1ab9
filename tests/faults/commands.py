"""Commands in processes of their own that can be ended at any moment, and what must hold afterwards."""

from __future__ import annotations

import ctypes
import hashlib
import json
import multiprocessing
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from maskconver.core.panoptic_png import read_panoptic_png
from maskconver.data import open_dataset

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.faults.preload"])


@dataclass
class Outcome:
    """How a command ended: its exit code, or minus the signal's number, and what it said on stderr."""

    code: int
    said: str

    @property
    def in_order(self) -> bool:
        """Whether it ended by itself, with at most one line of error."""
        own = [row for row in self.said.splitlines() if row.startswith("maskconver: error")]
        return self.code in (0, 1, 2) and "Traceback" not in self.said and (self.code != 2 or len(own) == 1)


def start(argv: list[str], log: Path, **limits: Any) -> multiprocessing.process.BaseProcess:
    """Starts a command; its output goes to a file."""
    process = CONTEXT.Process(target=_run, args=(argv, str(log), limits))
    process.start()
    return process


def finish(argv: list[str], log: Path, *, seconds: float = 240, **limits: Any) -> Outcome:
    """Runs a command to its end."""
    process = start(argv, log, **limits)
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join()
        raise AssertionError(f"{argv[0]} hangs: {log.read_text()[-2000:]}")
    assert process.exitcode is not None
    return Outcome(process.exitcode, log.read_text(errors="replace"))


def _run(argv: list[str], log: str, limits: dict[str, Any]) -> None:
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(handle, stream)
    if "disk" in limits:
        mount(Path(limits["at"]), limits["disk"])
    if "file" in limits:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limits["file"], limits["file"]))
    if "memory" in limits:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * 4096
        resource.setrlimit(resource.RLIMIT_AS, (used + limits["memory"],) * 2)
    from maskconver.cli.main import main

    code = main(argv)
    sys.stdout.flush()
    # The disk goes with this process: what it holds is looked at here.
    if "disk" in limits and (out := Path(limits["at"]) / "out").exists():
        _WHOLE[limits["whole"]](out)
    sys.exit(code)


def mount(folder: Path, options: str) -> None:
    """A disk in memory at a folder, seen by this process alone.

    Raises:
        OSError: not allowed here.
    """
    new_namespace = 0x00020000
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(new_namespace):
        raise OSError(ctypes.get_errno(), "no namespace")
    for command in (
        ["mount", "--make-rprivate", "/"],
        ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)],
    ):
        done = subprocess.run(command, capture_output=True, check=False)
        if done.returncode:
            raise OSError(done.returncode, done.stderr.decode())


def may_mount(folder: Path) -> bool:
    """Whether `mount` works here."""
    process = CONTEXT.Process(target=mount, args=(folder, "size=100k"))
    process.start()
    process.join()
    return process.exitcode == 0


def digest(folder: Path) -> dict[str, str]:
    """The content of all files of a folder that are not hidden."""
    files = (p for p in sorted(folder.rglob("*")) if p.is_file() and not p.name.startswith("."))
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def whole_run(out: Path) -> None:
    """Every file of a training that is there can be used."""
    import torch

    from maskconver import load

    if (out / "last.ckpt").exists():
        assert torch.load(out / "last.ckpt", weights_only=True)["global_step"] > 0
    for path in out.glob("*.safetensors"):
        load(path)
    rows = (out / "curve.jsonl").read_text().splitlines() if (out / "curve.jsonl").exists() else []
    assert all("step" in json.loads(row) for row in rows[:-1])


def whole_predictions(out: Path) -> None:
    """A JSON that is there describes the PNGs that are there; every PNG is whole."""
    for path in out.glob("panoptic/[!.]*.png"):
        with Image.open(path) as image:
            image.load()
    if not (out / "panoptic.json").exists():
        return
    content = json.loads((out / "panoptic.json").read_text())
    for row in content["annotations"]:
        ids = read_panoptic_png(out / "panoptic" / row["file_name"])
        assert set(np.unique(ids)) - {0} == {s["id"] for s in row["segments_info"]}
        assert all((ids == s["id"]).sum() == s["area"] for s in row["segments_info"])


def whole_set(out: Path) -> None:
    """A data set that is there can be read to the end."""
    for path in out.glob("panoptic_*.json"):
        for sample in open_dataset(out, path.stem.removeprefix("panoptic_")):
            assert sample.ids.max() > 0


def whole_model(out: Path) -> None:
    """An exported file that is there can be used."""
    from maskconver.inference.onnx import OnnxRuntime

    for path in out.glob("[!.]*.onnx"):
        OnnxRuntime(path)


_WHOLE: dict[str, Callable[[Path], None]] = {
    "train": whole_run,
    "predict": whole_predictions,
    "convert": whole_set,
    "synth": whole_set,
    "export": whole_model,
}


@dataclass
class Command:
    """A command to be disturbed.

    Attributes:
        name: of it.
        argv: its words, for a folder of results.
        again: what is added to end what was begun.
        same: names of results that are the same whatever happened before.
    """

    name: str
    argv: Callable[[Path], list[str]]
    again: tuple[str, ...] = ()
    same: Callable[[str], bool] = lambda name: True

    def check(self, out: Path) -> None:
        """Nothing that is half-written passes for whole."""
        if out.exists():
            _WHOLE[self.name](out)


def commands(data: Path, model: Path) -> list[Command]:
    """Train, predict, export, convert and synth on small inputs.

    Args:
        data: a generated set of 64×64 with `train` and `val`, and `labelme` beside it.
        model: a small model file.
    """
    train = [
        *(
            "train",
            f"--data={data}",
            "--model.name=maskconver_mobile_dense_512",
            "--model.input.size=[64,64]",
        ),
        *("--model.filters=16", "--model.embedding_dim=16", "--model.proposals=20", "--data.batch_size=2"),
        *("--data.workers=0", "--steps=8", "--val_every=4", "--checkpoint_every=2", "--schedule.warmup=2"),
        *("--log_every=1", "--threads=1", "--device=cpu", "--log_images=1"),
    ]
    images = data / "images" / "train"

    def train_to(out: Path) -> list[str]:
        return [*train, f"--out={out}"]

    def predict_to(out: Path) -> list[str]:
        return ["predict", str(model), str(images), f"--out={out}", "--device=cpu"]

    def export_to(out: Path) -> list[str]:
        return ["export", str(model), "--to=onnx", f"--out={out / 'm.onnx'}", "--size", "64", "64"]

    def convert_to(out: Path) -> list[str]:
        return ["data", "convert", str(data / "labelme"), str(out)]

    def synth_to(out: Path) -> list[str]:
        return ["data", "synth", str(out), "--count=12", "--size", "48", "48"]

    return [
        Command("train", train_to, ("--resume=auto",), lambda name: name == "last.safetensors"),
        Command("predict", predict_to),
        Command("export", export_to, same=lambda name: False),
        Command("convert", convert_to, same=lambda name: name != "conversion.json"),
        Command("synth", synth_to, ("--overwrite",)),
    ]
