"""The loss terms of a MaskConver's maps."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from maskconver.models.batch import Batch
from maskconver.models.maskconver.losses import LossConfig, MaskConverCriterion


def judged(model: Any, maps: Any, batch: Batch, config: LossConfig, **options: Any) -> dict[str, Tensor]:
    """What the family's criterion says about these maps."""
    terms: dict[str, Tensor] = MaskConverCriterion(model, config, **options)(model, maps, batch)
    return terms
