"""What decays, and the learning rate by batch and step."""

from __future__ import annotations

import pytest
from torch import nn

from maskconver.errors import ConfigError
from maskconver.models import create_model
from maskconver.training.config import TrainConfig
from maskconver.training.optim import (
    OptimConfig,
    ScheduleConfig,
    learning_rate,
    parameter_groups,
    scaled_lr,
)
from maskconver.training.run import _say_rate


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


def test_a_warm_up_that_takes_the_whole_run_is_said() -> None:
    said: list[str] = []
    schedule = ScheduleConfig(kind="cosine", warmup=500)
    _say_rate(TrainConfig(steps=300, schedule=schedule), said.append)
    assert "never rises above 0;" in said[-1] and "schedule.warmup" in said[-1] and "steps" in said[-1]
    _say_rate(TrainConfig(steps=5000, schedule=schedule), said.append)
    assert len(said) == 3 and said[-1].startswith("learning rate")


def test_milestones_below_one_are_shares_of_all_steps() -> None:
    shares = ScheduleConfig("step", warmup=0, milestones=(0.85, 0.95))
    for steps in (50_000, 200_000):
        counted = ScheduleConfig("step", warmup=0, milestones=(round(0.85 * steps), round(0.95 * steps)))
        for step in range(0, steps, steps // 40):
            assert learning_rate(step, steps, 1.0, shares) == learning_rate(step, steps, 1.0, counted)
