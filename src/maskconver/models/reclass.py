"""ReClass: a query's class targets soften by what its mask covers (ReMaX §3.2; kmax page §4.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .kmax.matching import region_sums
from .kmax.targets import MaskTargets


@torch.no_grad()
def class_overlap(masks: Tensor, targets: MaskTargets, num_classes: int) -> Tensor:
    """Equation 3, which share of a class's pixels a mask covers; 0 of absent classes.

        y_m[q, c] = Σ_i σ(m_pan)[i, q] S[i, c] / Σ_i S[i, c]

    Args:
        masks: B×N×h×w probabilities σ(m_pan).
        targets: whose masks together are the semantic ground truth S.
        num_classes: K.

    Returns:
        B×N×K in 0…1.
    """
    classes = F.one_hot(targets.labels + 1, num_classes + 1)[..., 1:].to(masks.dtype)
    covered = region_sums(masks, targets) @ classes
    areas = region_sums(torch.ones_like(masks[:, :1]), targets) @ classes
    return covered / areas.clamp(min=1)


def soften(target: Tensor, overlap: Tensor | None, eta: float, num_classes: int) -> Tensor:
    """Equation 4: ŷ = η y_m + (1 - η y_m) y: 1 at the query's own class, η y_m at the others.

    Args:
        target: B×N int64, K is "no object".
        overlap: y_m, B×N×K; None for hard targets.
        eta: η, 0…1.
        num_classes: K.

    Returns:
        B×N×(K+1) float32; a row's sum is 1 or more.
    """
    hard = F.one_hot(target, num_classes + 1).float()
    if overlap is None or not eta:
        return hard
    relaxed = eta * F.pad(overlap, (0, 1))
    return relaxed + (1 - relaxed) * hard
