"""A training step: gradients, modules that are frozen, and the stop on a loss that is not finite."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from maskconver.cli.main import main
from maskconver.errors import ConfigError
from maskconver.models import create_model
from maskconver.training.config import TrainConfig
from maskconver.training.loader import DataConfig, SegmentationData
from maskconver.training.run import _say_random
from maskconver.training.task import NonFiniteLoss, SegmentationTask, freeze

from .conftest import tiny


def small_task(cells: Path) -> tuple[Any, SegmentationData, SegmentationTask]:
    config = TrainConfig(data=DataConfig(data=str(cells), batch_size=2, workers=0))
    model = create_model("maskconver_mobile_256", num_classes=2, input={"size": (64, 64)})
    data = SegmentationData(config.data, model.input, 4)
    model.categories = data.categories
    task = SegmentationTask(model, config)
    return model, data, task


def test_a_loss_that_is_not_finite_names_term_images_and_checkpoint(cells: Path) -> None:
    model, data, task = small_task(cells)
    task.last_checkpoint = "runs/x/last.ckpt (step 40)"
    assert model.mask_head.out.bias is not None
    model.mask_head.out.bias.data.fill_(float("nan"))
    batch = next(iter(data.train_dataloader()))
    with pytest.raises(NonFiniteLoss) as error:
        task.training_step(batch, 0)
    message = str(error.value)
    assert "mask = nan" in message
    assert "center" not in message
    assert str(list(batch.image_ids)) in message
    assert "runs/x/last.ckpt (step 40)" in message


def test_gradients_reach_every_parameter(cells: Path) -> None:
    model, data, task = small_task(cells)
    task.log = lambda *_, **__: None  # type: ignore[method-assign]
    task.log_dict = lambda *_, **__: None  # type: ignore[method-assign]
    task.training_step(next(iter(data.train_dataloader())), 0).backward()
    missing = [k for k, p in model.named_parameters() if p.grad is None]
    assert missing == []
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_frozen_modules_keep_weights_and_statistics(cells: Path, tmp_path: Path) -> None:
    weights = []
    for steps in (2, 4):
        out = tmp_path / str(steps)
        frozen = "--freeze=backbone.block[0-6],decoder.aspp"
        assert main(tiny(cells, out, frozen, "--ema=0", f"--steps={steps}", f"--val_every={steps}")) == 0
        weights.append(load_file(out / "last.safetensors"))
    changed = {k for k in weights[0] if not torch.equal(weights[0][k], weights[1][k])}
    early = tuple(f"backbone.block{i}." for i in range(7))
    assert not [k for k in changed if k.startswith((*early, "decoder.aspp."))]
    assert [k for k in changed if k.startswith("backbone.block7.")]
    assert [k for k in changed if k.endswith("running_mean")]


def test_a_model_frozen_as_a_whole_is_refused(cells: Path, tmp_path: Path) -> None:
    model = create_model("maskconver_mobile_256", num_classes=3, filters=16, low_level_filters=16)
    with pytest.raises(ConfigError, match="nothing is left to learn"):
        SegmentationTask(model, TrainConfig(freeze="*"))


def test_frozen_weights_that_nothing_has_given_are_named() -> None:
    model = create_model("maskconver_mobile_256", num_classes=3, filters=16, low_level_filters=16)
    task: Any = SimpleNamespace(model=model, frozen=freeze(model, ["backbone", "decoder"]))
    said: list[str] = []
    _say_random(
        task, {name for name, _ in model.named_parameters() if name.startswith("backbone.")}, said.append
    )
    decoder = [name for name, _ in model.decoder.named_parameters()]
    assert len(said) == 1 and f"{len(decoder)} frozen weights are random (decoder." in said[0]
    _say_random(task, {name for name, _ in model.named_parameters()}, said.append)
    assert len(said) == 1


def test_a_module_that_is_not_there_cannot_be_frozen() -> None:
    model = create_model("maskconver_mobile_256", num_classes=3, filters=16, low_level_filters=16)
    with pytest.raises(ConfigError, match=r'"neck".*backbone, decoder'):
        freeze(model, ["backbone", "neck"])


def test_training_on_one_thread_has_onednn_compute_pointwise_convolutions(
    cells: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, task = small_task(cells)
    seen: list[torch.nn.Module] = []
    monkeypatch.setattr("maskconver.training.task.use_onednn", seen.append)
    task.on_fit_start()
    assert seen == [task]
