"""Learning rates by step (reference page §8)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass
class ScheduleConfig:
    """How the learning rate runs.

    Attributes:
        kind: `cosine` to 0, `poly` to `end` with `power`, or `step`: times `gamma` at each of `milestones`;
            `constant`.
        warmup: steps of linear warm-up from 0.
        end: last learning rate of `poly`.
        power: exponent of `poly`.
        milestones: steps, for `step`.
        gamma: factor, for `step`.
    """

    kind: Literal["cosine", "poly", "step", "constant"] = "cosine"
    warmup: int = 500
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
        return step / config.warmup * _decay(config.warmup, steps, peak, config)
    return _decay(step, steps, peak, config)


def _decay(step: int, steps: int, peak: float, config: ScheduleConfig) -> float:
    progress = min(step / max(steps, 1), 1.0)
    if config.kind == "cosine":
        return peak * (1 + math.cos(math.pi * progress)) / 2
    if config.kind == "poly":
        return (peak - config.end) * (1 - progress) ** config.power + config.end
    if config.kind == "step":
        return peak * config.gamma ** sum(step >= m for m in config.milestones)
    return peak
