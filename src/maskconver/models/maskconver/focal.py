"""Penalty-reduced focal loss on centre heatmaps (reference page §5, *Centre loss*; CornerNet eq. 1)."""

from __future__ import annotations

import torch
from torch import Tensor

ALPHA, BETA, CLIP = 2, 4, 1e-4


def focal_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Element-wise loss: `-(1-p)² log p` where the target is exactly 1, else `-(1-t)⁴ p² log(1-p)`.

    Args:
        logits: any shape, float; p = sigmoid clipped to 1e-4…1-1e-4 (no gradient where clipped).
        targets: the same shape in 0…1.
    """
    p = logits.float().sigmoid().clamp(CLIP, 1 - CLIP)
    positive = -((1 - p) ** ALPHA) * p.log()
    negative = -((1 - targets) ** BETA) * p**ALPHA * (1 - p).log()
    return torch.where(targets == 1, positive, negative)


def center_sums(logits: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
    """(B,) focal loss of each image, summed over valid cells and classes.

    Args:
        logits, targets: B×C×h×w.
        valid: bool, broadcasts to B×C×h×w.
    """
    return (focal_loss(logits, targets) * valid).sum((1, 2, 3))
