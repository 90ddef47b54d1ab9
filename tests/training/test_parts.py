"""Optimiser groups, learning-rate rule, averaged weights, and the stop on a loss that is not finite."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from maskconver.cli.main import main
from maskconver.errors import ConfigError
from maskconver.models import create_model
from maskconver.training import callbacks
from maskconver.training.callbacks import EMA, Throughput
from maskconver.training.config import TrainConfig
from maskconver.training.loader import DataConfig, SegmentationData
from maskconver.training.optim import (
    OptimConfig,
    ScheduleConfig,
    learning_rate,
    parameter_groups,
    scaled_lr,
)
from maskconver.training.task import NonFiniteLoss, SegmentationTask, freeze

from .conftest import tiny


def test_only_kernels_and_embedding_tables_decay() -> None:
    model = create_model("maskconver_mobile_256", num_classes=201)
    decay, rest = (group["params"] for group in parameter_groups(model, 0.1))
    assert len(decay) == 56 - 1  # the reference's count, less the kernel of block 19, which is not built
    assert len(decay) + len(rest) == len(list(model.parameters()))
    assert all(p.ndim > 1 for p in decay)
    depthwise = [m.weight for m in model.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    assert not {id(p) for p in depthwise} & {id(p) for p in decay}


@pytest.mark.parametrize(("rule", "expected"), [("linear", 0.04), ("sqrt", 0.02), ("none", 0.01)])
def test_learning_rate_follows_the_batch_by_its_rule(rule: str, expected: float) -> None:
    config = OptimConfig(lr=0.01, base_batch=8, lr_scaling=rule)  # type: ignore[arg-type]
    assert scaled_lr(config, 32) == pytest.approx(expected)


@pytest.mark.parametrize("lr", [0.0, -0.1])
def test_a_learning_rate_that_is_not_positive_is_refused(lr: float) -> None:
    with pytest.raises(ConfigError, match=r"`optim\.lr="):
        scaled_lr(OptimConfig(lr=lr), 8)


def test_ema_follows_the_warmed_up_decay_and_is_what_validation_sees() -> None:
    module = SimpleNamespace(model=nn.Linear(1, 1, bias=False))
    module.model.weight.data.fill_(0.0)
    trainer = SimpleNamespace(global_step=0)
    ema = EMA(0.9)
    ema.on_fit_start(trainer, module)  # type: ignore[arg-type]
    expected = 0.0
    for step in range(1, 200):
        module.model.weight.data.fill_(float(step))
        trainer.global_step = step
        ema.on_train_batch_end(trainer, module)  # type: ignore[arg-type]
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    ema.on_validation_start(trainer, module)  # type: ignore[arg-type]
    assert module.model.weight.item() == pytest.approx(expected, rel=1e-5)
    ema.on_validation_end(trainer, module)  # type: ignore[arg-type]
    assert module.model.weight.item() == 199


def test_a_loss_that_is_not_finite_names_term_images_and_checkpoint(cells: Path) -> None:
    config = TrainConfig(data=DataConfig(data=str(cells), batch_size=2, workers=0))
    model = create_model("maskconver_mobile_256", num_classes=2, input={"size": (64, 64)})
    data = SegmentationData(config.data, model.input, 4)
    model.categories = data.categories
    task = SegmentationTask(model, config)
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
    config = TrainConfig(data=DataConfig(data=str(cells), batch_size=2, workers=0))
    model = create_model("maskconver_mobile_256", num_classes=2, input={"size": (64, 64)})
    data = SegmentationData(config.data, model.input, 4)
    model.categories = data.categories
    task = SegmentationTask(model, config)
    task.log = lambda *_, **__: None  # type: ignore[method-assign]
    task.log_dict = lambda *_, **__: None  # type: ignore[method-assign]
    task.training_step(next(iter(data.train_dataloader())), 0).backward()
    missing = [k for k, p in model.named_parameters() if p.grad is None]
    assert missing == []
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_images_a_second_and_the_wait_for_the_loader_are_on_the_progress_bar(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter(range(10_000))  # a second a look: every step takes one, and every wait
    monkeypatch.setattr(callbacks.time, "perf_counter", lambda: float(next(clock)))
    logged: dict[str, tuple[float, bool]] = {}

    class Module:
        device = torch.device("cpu")

        def log(self, name: str, value: float, prog_bar: bool = False) -> None:
            logged[name] = value, prog_bar

    throughput, module = Throughput(batch=4), Module()
    trainer = SimpleNamespace(optimizers=[SimpleNamespace(param_groups=[{"lr": 0.25}])])
    for _ in range(20):
        throughput.on_train_batch_start(trainer, module)  # type: ignore[arg-type]
        throughput.on_train_batch_end(trainer, module)  # type: ignore[arg-type]
    assert logged["images/s"] == (80 / 39, True) and logged["wait share"] == (19 / 39, True)
    assert logged["step images/s"][0] == 4
    assert logged["learning rate"] == (0.25, True)
    assert 0 < logged["memory GB"][0] < 1e4 and logged["memory GB"][1]


def test_milestones_below_one_are_shares_of_all_steps() -> None:
    shares = ScheduleConfig("step", warmup=0, milestones=(0.85, 0.95))
    for steps in (50_000, 200_000):
        counted = ScheduleConfig("step", warmup=0, milestones=(round(0.85 * steps), round(0.95 * steps)))
        for step in range(0, steps, steps // 40):
            assert learning_rate(step, steps, 1.0, shares) == learning_rate(step, steps, 1.0, counted)


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


def test_a_module_that_is_not_there_cannot_be_frozen() -> None:
    model = create_model("maskconver_mobile_256", num_classes=3, filters=16, low_level_filters=16)
    with pytest.raises(ConfigError, match=r'"neck".*backbone, decoder'):
        freeze(model, ["backbone", "neck"])
