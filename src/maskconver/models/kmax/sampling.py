"""Pixels drawn without replacement, those of small masks more often (kmax page §3)."""

from __future__ import annotations

import torch
from torch import Tensor

VOID = -99999.0


@torch.no_grad()
def sample_pixels(owner: Tensor, owners: int, count: int, temperature: float) -> Tensor | None:
    """Gumbel top-k with logits `temperature · ln(pixels / area of the pixel's mask)`.

    Args:
        owner: B×P int64 in 0…owners-1, the pixel's mask or class; -1 is void, drawn only when nothing else
            is left.
        owners: how many masks or classes there may be.
        count: how many pixels.
        temperature: 0 draws all pixels alike, 1 all masks.

    Returns:
        B×count int64 pixels; None where that is all of them.
    """
    b, pixels = owner.shape
    if count >= pixels:
        return None
    number = owner + 1
    ones = torch.ones_like(number, dtype=torch.float32)
    areas = ones.new_zeros(b, owners + 1).scatter_add_(1, number, ones)
    logits = temperature * (pixels / areas.gather(1, number)).log()
    gumbel = -torch.empty_like(logits).exponential_().log()
    return (logits.masked_fill(owner < 0, VOID) + gumbel).topk(count, 1, sorted=False).indices
