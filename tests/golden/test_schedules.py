"""Learning rates of the published recipes, step by step."""

from __future__ import annotations

import numpy as np
import pytest

from maskconver.training.optim import ScheduleConfig, learning_rate

from .reference import case

pytestmark = pytest.mark.golden

# peak learning rate and kind of the public configurations
RECIPES = {
    "lr_mobile": (0.04, ScheduleConfig("cosine")),
    "lr_segcoco": (0.01, ScheduleConfig("cosine")),
    "lr_segvoc": (0.007, ScheduleConfig("poly", end=1e-4, power=0.9)),
    "lr_segcity": (0.1, ScheduleConfig("cosine")),
}


@pytest.mark.parametrize("name", RECIPES)
def test_learning_rate_at_every_recorded_step(name: str) -> None:
    arrays = case(f"maskconver/{name}")
    peak, config = RECIPES[name]
    config.warmup = int(arrays["warmup_steps"])
    rates = [learning_rate(int(s), int(arrays["total_steps"]), peak, config) for s in arrays["steps"]]
    np.testing.assert_allclose(rates, arrays["lr"], rtol=1e-6, atol=1e-9)


# the same of the multi-scale models: steps, peak learning rate, schedule
MULTISCALE = {
    "multiscale_resnetufpn": (270_000, 1e-3, ScheduleConfig("cosine", 500)),
    "multiscale_resnet50fpn": (200_000, 0.04, ScheduleConfig("cosine", 2000)),
    "resnetu_imagenet": (93_600, 4e-3, ScheduleConfig("cosine", 1560)),
    "resnetu_cocoseg": (64_000, 3e-4, ScheduleConfig("cosine", 2000, warmup_start=1e-6, end=0.03 * 3e-4)),
    "spinenetseg_coco": (200_000, 0.08, ScheduleConfig("cosine", 2000)),
    "seg_spinenetseg_se_coco": (200_000, 0.01, ScheduleConfig("cosine", 500)),
    "seg_spinenetseg_se_pascal": (30_000, 1e-3, ScheduleConfig("step", 500, milestones=(25_000,))),
}


@pytest.mark.parametrize("name", MULTISCALE)
def test_learning_rate_of_the_multiscale_recipes(name: str) -> None:
    arrays = case("multiscale/lr_schedules")
    steps, peak, config = MULTISCALE[name]
    rates = [learning_rate(int(s), steps, peak, config) for s in arrays[f"{name}__steps"]]
    np.testing.assert_allclose(rates, arrays[f"{name}__lr"], rtol=1e-5, atol=1e-9)
