"""Learning rates of the published recipes, step by step."""

from __future__ import annotations

import numpy as np
import pytest

from maskconver.training.schedules import ScheduleConfig, learning_rate

from .reference import case

pytestmark = pytest.mark.golden

# peak learning rate and kind (reference page §8)
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
