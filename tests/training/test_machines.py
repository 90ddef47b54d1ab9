"""Several processes, on one machine or more: they learn what one process learns, and write once."""

from __future__ import annotations

import csv
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from maskconver import load
from maskconver.cli.main import main
from maskconver.data.synth.write import write_dataset
from maskconver.training.loader import DataConfig, SegmentationData

from .conftest import tiny


@pytest.mark.slow
def test_two_processes_train_together_and_one_speaks(cells: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "maskconver.cli", *tiny(cells, tmp_path, "--devices=2", "--steps=2")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert sum(line.startswith("learning rate") for line in done.stdout.splitlines()) == 1
    assert done.stdout.count("step 2/2: loss") == 1
    assert done.stdout.count("pq_things   ") == 1
    assert json.loads((tmp_path / "curve.jsonl").read_text())["step"] == 2


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of 6 training and 3 validation images, and `start.safetensors`."""
    folder = tmp_path_factory.mktemp("machines")
    write_dataset(folder, style="cells", count=6, size=(64, 64), seed=0, split="train")
    write_dataset(folder, style="cells", count=3, size=(64, 64), seed=1, split="val")
    assert main(tiny(folder, folder / "first", "--steps=2", "--ema=0")) == 0
    return folder


def run(data: Path, out: Path, processes: int, *more: str) -> None:
    """Trains on four images a step, in one process or as two machines with a process each."""
    words = tiny(
        data, out, f"--data.batch_size={4 // processes}", f"--nodes={processes}", "--val_every=2",
        "--log_images=0", f"--init_from={data / 'first'}", "--batch_norm=frozen", *more,
    )  # fmt: skip
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "maskconver.cli", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | address | {"NODE_RANK": str(rank)},
        )
        for rank in range(processes)
    ]
    for process in started:
        said, _ = process.communicate(timeout=300)
        assert process.returncode == 0, said[-3000:]


def losses(out: Path) -> list[float]:
    """Of every step, also of those before a run was resumed."""
    found = {}
    for path in out.glob("metrics*.csv"):
        rows = csv.DictReader(path.read_text().splitlines())
        found |= {int(row["step"]): float(row["train/total"]) for row in rows if row["train/total"]}
    return [found[step] for step in sorted(found)]


def figures(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "curve.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_two_machines_learn_what_one_process_learns_and_either_goes_on_with_the_other(
    start: Path, tmp_path: Path
) -> None:
    run(start, one := tmp_path / "one", 1, "--steps=6")
    run(start, two := tmp_path / "two", 2, "--steps=6", "--strategy=ddp")
    assert losses(two) == pytest.approx(losses(one), rel=1e-3) and len(losses(one)) == 6
    for alone, both in zip(figures(one), figures(two), strict=True):  # of 3 images, each counted once
        assert both == pytest.approx(alone, abs=5e-3)
    mixed = tmp_path / "mixed"
    for steps, processes in ((2, 2), (4, 1), (6, 2)):
        run(start, mixed, processes, f"--steps={steps}", "--schedule.kind=constant", "--resume=auto")
    run(start, flat := tmp_path / "flat", 1, "--steps=6", "--schedule.kind=constant")
    assert losses(mixed) == pytest.approx(losses(flat), rel=1e-3)


def shares(folder: Path, world: int) -> tuple[list[list[int]], list[list[tuple[int, bool]]]]:
    """Of each process the training images it reads in an epoch, and the validation images with `counted`."""
    training, validation = [], []
    for rank in range(world):
        data = SegmentationData(DataConfig(str(folder), batch_size=1, workers=0), load("nuclei").input, 6)
        data._process = lambda rank=rank: (rank, world)  # type: ignore[method-assign, misc]
        training.append([int(batch.image_ids[0]) for batch in data.train_dataloader()])
        items = data.val_dataloader()
        validation.append([(int(item.sample.image_id), item.counted) for item in items])
    return training, validation


@pytest.mark.parametrize("world", [1, 2, 5])
def test_each_process_reads_its_share_and_validation_images_count_once(start_data: Path, world: int) -> None:
    training, validation = shares(start_data, world)
    assert sorted(i for part in training for i in part) == sorted({i for part in training for i in part})
    assert all(len(part) in (6 // world, 6 // world + 1) for part in training)
    counted = [image for part in validation for image, counts in part if counts]
    assert sorted(counted) == sorted(set(counted)) and len(counted) == 3
    assert len({len(part) for part in validation}) == 1


@pytest.fixture(scope="module")
def start_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shares")
    for count, split in ((6, "train"), (3, "val")):
        write_dataset(folder, style="cells", count=count, size=(64, 64), seed=0, split=split)
    return folder


def test_a_resumed_run_of_another_batch_goes_on_where_the_images_stopped(cells: Path, tmp_path: Path) -> None:
    import torch

    assert main(tiny(cells, tmp_path, "--steps=3")) == 0
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["seen"] == 6
    assert main(tiny(cells, tmp_path, "--steps=4", "--data.batch_size=1", "--resume=auto")) == 0
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["seen"] == 7


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--strategy=fsdp"], "set --ema 0"),
        (["--strategy=fsdp", "--ema=0", "--optim.clip_norm=null"], "needs CUDA devices"),
        (["--nodes=0"], "--nodes must be at least 1"),
        (["--nodes=2", "--freeze=backbone", "--freeze-steps=1"], "works in one process"),
    ],
)
def test_what_cannot_be_shared_is_said_in_one_line(
    cells: Path, tmp_path: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(tiny(cells, tmp_path, *words)) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


def test_torchrun_with_another_number_of_processes_is_refused(
    cells: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(tiny(cells, tmp_path)) == 2
    assert "torchrun has started 2 processes, but the run has 1" in capsys.readouterr().err
