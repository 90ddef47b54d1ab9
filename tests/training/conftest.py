"""A generated data set and a model small enough to train in seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from maskconver.data.synth.write import write_dataset


@pytest.fixture(scope="session")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generated set: 6 training and 2 validation images of 64×64."""
    folder = tmp_path_factory.mktemp("cells")
    write_dataset(folder, style="cells", count=6, size=(64, 64), seed=0, split="train")
    write_dataset(folder, style="cells", count=2, size=(64, 64), seed=1, split="val")
    return folder


def tiny(data: Path, out: Path, *more: str) -> list[str]:
    """Arguments of `maskconver train` for a run of seconds."""
    return [
        "train", f"--data={data}", f"--out={out}", "--model.name=maskconver_mobile_dense_512",
        "--model.input.size=[64,64]",
        "--model.filters=16", "--model.embedding_dim=16", "--model.proposals=20",
        "--data.batch_size=2", "--data.workers=0", "--steps=6", "--val_every=6", "--checkpoint_every=2",
        "--schedule.warmup=2", "--log_every=1", "--threads=1", "--device=cpu", *more,
    ]  # fmt: skip
