"""The same seed gives the same weights, bit by bit on a CPU, however the run is cut and loaded."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch

from maskconver.cli.main import main
from maskconver.models.checkpoint import read_state

from .conftest import tiny

RECIPE = ("--steps=5", "--val_every=5", "--checkpoint_every=100", "--log_images=0", "--data.augment.flip=0.5")


def weights(out: Path) -> dict[str, torch.Tensor]:
    return read_state(out / "last.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="module")
def expected(cells: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    out = tmp_path_factory.mktemp("expected")
    assert main(tiny(cells, out, *RECIPE)) == 0
    return weights(out)


@pytest.mark.parametrize(
    "options",
    [
        ("--data.workers=1",),
        pytest.param(("--data.workers=3",), marks=pytest.mark.slow),
        ("--val_every=2",),
        pytest.param(("--val_every=1", "--log_images=4"), marks=pytest.mark.slow),
        pytest.param(("--checkpoint_every=1",), marks=pytest.mark.slow),
        ("--deterministic=true",),
    ],
    ids=" ".join,
)
def test_neither_workers_nor_validation_nor_checkpoints_change_the_weights(
    options: tuple[str, ...], cells: Path, expected: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    before = torch.are_deterministic_algorithms_enabled()
    assert main(tiny(cells, tmp_path, *RECIPE, *options)) == 0
    assert same(weights(tmp_path), expected)
    assert torch.are_deterministic_algorithms_enabled() == before


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_a_run_that_is_resumed_after_any_step_ends_with_the_same_weights(
    step: int, cells: Path, expected: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from maskconver.training.callbacks import Checkpoints

    after = Checkpoints.on_train_batch_end

    def stop(self: Checkpoints, trainer: object, *args: object) -> None:
        after(self, trainer, *args)  # type: ignore[arg-type]
        if trainer.global_step == step:  # type: ignore[attr-defined]
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Checkpoints, "on_train_batch_end", stop)
    assert main(tiny(cells, tmp_path, *RECIPE)) == 130
    monkeypatch.undo()
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == step
    assert main(tiny(cells, tmp_path, *RECIPE, "--resume=auto")) == 0
    assert same(weights(tmp_path), expected)


def test_another_seed_gives_other_weights(
    cells: Path, expected: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    assert main(tiny(cells, tmp_path, *RECIPE, "--seed=1")) == 0
    assert not same(weights(tmp_path), expected)
