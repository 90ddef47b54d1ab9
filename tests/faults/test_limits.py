"""Full disks, read-only and vanishing folders, and too little memory: one line, and nothing half-written."""

from __future__ import annotations

import os
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from .commands import commands, digest, finish, may_mount

NAMES = ("train", "predict", "export", "convert", "synth")
MANY = int(os.environ.get("MASKCONVER_KILLS", "10")) >= 50
# Kilobytes of the disk: from nothing to almost enough.
DISKS = {
    "train": (0, 4, 400, 3000, 9000) if MANY else (4, 9000),
    "predict": (0, 4, 12, 20) if MANY else (12,),
    "export": (0, 4, 500, 2000) if MANY else (500,),
    "convert": (0, 4, 12, 20) if MANY else (12,),
    "synth": (0, 4, 40, 80) if MANY else (40,),
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that are forked"),
]


@pytest.mark.parametrize("name", NAMES)
def test_a_full_disk_ends_in_one_line_and_leaves_nothing_half_written(
    name: str, inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    (command,) = (c for c in commands(*inputs) if c.name == name)
    before = digest(inputs[0])
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = may_mount(disk)
    for kilobytes in DISKS[name]:
        limits = {"disk": f"size={max(kilobytes, 1)}k", "at": str(disk), "whole": name}
        if not mounted:  # the next best: no file may be larger
            limits = {"file": 1024 * kilobytes}  # type: ignore[dict-item]
        done = finish(command.argv(disk / "out"), tmp_path / "log", **limits)
        assert done.in_order, f"{kilobytes} KB: {done.code} {done.said}"
        command.check(disk / "out")
        shutil.rmtree(disk / "out", ignore_errors=True)
    assert digest(inputs[0]) == before


@pytest.mark.parametrize("name", NAMES)
def test_a_read_only_folder_is_refused_in_one_line(
    name: str, inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    (command,) = (c for c in commands(*inputs) if c.name == name)
    disk = tmp_path / "disk"
    disk.mkdir()
    if not may_mount(disk):
        if os.geteuid() == 0:
            pytest.skip("the administrator may write everywhere, and no disk can be mounted here")
        disk.chmod(0o500)
        done = finish(command.argv(disk / "out"), tmp_path / "log")
        disk.chmod(0o700)
    else:
        done = finish(command.argv(disk / "out"), tmp_path / "log", disk="ro", at=str(disk), whole=name)
    assert done.code == 2 and done.in_order, done.said


@pytest.mark.parametrize("name", ("train", "predict", "synth", "convert"))
def test_a_folder_that_vanishes_ends_in_order(name: str, inputs: tuple[Path, Path], tmp_path: Path) -> None:
    (command,) = (c for c in commands(*inputs) if c.name == name)
    out, over = tmp_path / "gone" / "out", threading.Event()

    def take_away() -> None:
        while not over.is_set():
            time.sleep(0.05)
            shutil.rmtree(out.parent, ignore_errors=True)

    thread = threading.Thread(target=take_away)
    thread.start()
    try:
        done = finish(command.argv(out), tmp_path / "log")
    finally:
        over.set()
        thread.join()
    assert done.in_order, done.said


def test_images_that_vanish_are_listed_and_the_others_done(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for k in range(4):
        (images / f"{k}.png").symlink_to(inputs[0] / "images" / "train" / f"cells_0000{k + 1}.png")
    (images / "2.png").unlink()
    (images / "2.png").symlink_to(tmp_path / "gone.png")
    argv = ["predict", str(inputs[1]), str(images), f"--out={tmp_path / 'out'}", "--device=cpu"]
    done = finish(argv, tmp_path / "log")
    assert done.code == 1 and "2.png: no such file" in done.said and done.in_order
    assert len(list((tmp_path / "out" / "panoptic").iterdir())) == 3


@pytest.mark.parametrize("megabytes", (20, 120) if MANY else (20,))
def test_too_little_memory_is_told_in_one_line(
    inputs: tuple[Path, Path], tmp_path: Path, megabytes: int
) -> None:
    path = tmp_path / "large.png"
    Image.fromarray(np.zeros((6000, 6000, 3), np.uint8)).save(path, compress_level=1)
    argv = ["predict", str(inputs[1]), str(path), f"--out={tmp_path / 'out'}", "--device=cpu"]
    done = finish(argv, tmp_path / "log", memory=megabytes << 20)
    assert done.code == 2 and done.in_order, done.said


@pytest.mark.parametrize("name", ("train", "predict", "synth", "convert"))
def test_of_two_runs_into_one_folder_the_second_is_refused(
    name: str, inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    from maskconver.io.lock import hold

    (command,) = (c for c in commands(*inputs) if c.name == name)
    out = tmp_path / "out"
    place = {"train": out / ".train.lock", "predict": out / ".predict.lock", "synth": out / ".train.lock"}
    with hold(place.get(name, tmp_path / ".out.lock"), "it"):
        done = finish(command.argv(out), tmp_path / "log")
    assert done.code == 2 and f"process {os.getpid()} on" in done.said and done.in_order, done.said
    assert finish(command.argv(out), tmp_path / "log").code == 0
    assert not list(tmp_path.rglob(".*.lock"))
