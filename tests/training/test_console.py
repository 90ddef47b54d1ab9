"""What a training says while it runs."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

from maskconver.cli.main import main
from maskconver.data.synth.write import write_dataset
from maskconver.training.callbacks import DivergenceWatch


def watched(losses: list[float]) -> list[str]:
    lines: list[str] = []
    watch = DivergenceWatch(lines.append)
    for step, loss in enumerate(losses, 1):
        watch.seen(step, loss)
    return lines


def test_a_loss_that_runs_away_is_named_once_with_its_step_and_a_remedy() -> None:
    lines = watched([11.7] * 5 + [12, 14, 18, 22, 26, 30, 33, 33, 33])
    assert len(lines) == 1
    assert "step 10:" in lines[0] and "from 11.7" in lines[0]
    assert "schedule.warmup" in lines[0] and "optim.clip_norm" in lines[0]


def test_a_noisy_loss_that_falls_is_no_divergence() -> None:
    assert watched([8.0, 7.0, 9.0, 8.0, 8.0, *[2.0, 9.0, 3.0, 1.0, 8.0] * 10]) == []


def test_what_was_seen_before_a_checkpoint_counts_after_it() -> None:
    lines: list[str] = []
    before, after = DivergenceWatch(lines.append), DivergenceWatch(lines.append)
    for step in range(5):
        before.seen(step, 10.0)
    after.load_state_dict(before.state_dict())
    for step in range(5, 10):
        after.seen(step, 20.0)
    assert len(lines) == 1


def test_a_log_file_gets_a_line_every_few_steps_and_no_advertisement(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for split in ("train", "val"):
        write_dataset(tmp_path / "d", "scenes", 2, size=(64, 64), split=split)
    words = [
        "--data.batch_size=2", "--data.workers=0", "--steps=4", "--val_every=4", "--log_every=2", "--ema=0",
        "--model.input.size=[64,64]", "--threads=1", "--device=cpu", "--log_images=0",
        f"--data={tmp_path / 'd'}", f"--out={tmp_path / 'run'}",
    ]  # fmt: skip
    assert main(["train", "--config=start", "--init-from=none", *words]) == 0
    said = capfd.readouterr()
    lines = said.out.splitlines()
    assert [line.split(":")[0] for line in lines if line.startswith("step ") and "/" in line] == [
        "step 2/4",
        "step 4/4",
    ]
    assert "loss" in said.out and "learning rate" in said.out and "images/s" in said.out
    assert any(line.startswith("step 4: validation") and "pq" in line for line in lines)
    for word in ("litlogger", "Tip", "GPU available", "http"):
        assert word not in said.out + said.err
