"""Learning rates by step (reference page §8)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass
class ScheduleConfig:
    """How the learning rate runs.

    Attributes:
        kind: `cosine` or `poly` to `end`, `step`: times `gamma` after each of `milestones`, or `constant`.
        warmup: steps of linear warm-up from `warmup_start`.
        warmup_start: learning rate at step 0.
        end: last learning rate of `cosine` and `poly`.
        power: exponent of `poly`.
        milestones: steps, for `step`.
        gamma: factor, for `step`.
    """

    kind: Literal["cosine", "poly", "step", "constant"] = "cosine"
    warmup: int = 500
    warmup_start: float = 0.0
    end: float = 0.0
    power: float = 0.9
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1


def learning_rate(step: int, steps: int, peak: float, config: ScheduleConfig) -> float:
    """The learning rate at a step.

    The warm-up rises to the decay's value at its own end, and the decay runs unshifted from step 0, as in the
    reference.

    Args:
        step: 0…steps.
        steps: length of the whole schedule.
        peak: the decay's value at step 0.
        config: kind and warm-up.
    """
    if step < config.warmup:
        target = _decay(config.warmup, steps, peak, config)
        return config.warmup_start + step / config.warmup * (target - config.warmup_start)
    return _decay(step, steps, peak, config)


def _decay(step: int, steps: int, peak: float, config: ScheduleConfig) -> float:
    progress = min(step / max(steps, 1), 1.0)
    if config.kind == "cosine":
        return config.end + (peak - config.end) * (1 + math.cos(math.pi * progress)) / 2
    if config.kind == "poly":
        return (peak - config.end) * (1 - progress) ** config.power + config.end
    if config.kind == "step":
        return peak * config.gamma ** sum(step > m for m in config.milestones)
    return peak
