"""Masks that know where they are: a quadratic form in the offset from the centre (`position`).

Equal-looking objects side by side are so told apart by place (ours, off in published models; the idea of
semi-convolutional embeddings, Novotny et al., ECCV 2018).
"""

from __future__ import annotations

import torch
from torch import Tensor

TERMS = 6  # 1, x, y, x², xy, y²
UNIT = 8.0  # cells; offsets of that size are 1 in the quadratic form
START = (1.0, 0.0, 0.0, -4.0, 0.0, -4.0)  # a disc of 4 cells radius, before anything is learned


def at_centers(embeddings: Tensor, cells: Tensor) -> Tensor:
    """Moves the form in the last six columns from offsets (dy, dx) to absolute coordinates.

    Args:
        embeddings: n×(D+6) float.
        cells: n×2 int64 (y, x), the centres.

    Returns:
        n×(D+6) float32.
    """
    e, (c, px, py, pxx, pxy, pyy) = (
        embeddings[:, :-TERMS].float(),
        embeddings[:, -TERMS:].float().unbind(1),
    )
    y, x = (cells.float() / UNIT).unbind(1)
    # p(X - x, Y - y) written out in the monomials 1, X, Y, X², XY, Y²
    moved = torch.stack(
        [
            c - px * x - py * y + pxx * x * x + pxy * x * y + pyy * y * y,
            px - 2 * pxx * x - pxy * y,
            py - pxy * x - 2 * pyy * y,
            pxx,
            pxy,
            pyy,
        ],
        1,
    )
    return torch.cat([e, moved], 1)


def monomials(height: int, width: int, device: torch.device) -> Tensor:
    """6×h×w float32: 1, x, y, x², xy and y² of every cell, what the form is multiplied with."""
    y = (torch.arange(height, device=device) / UNIT).view(height, 1).expand(height, width)
    x = (torch.arange(width, device=device) / UNIT).view(1, width).expand(height, width)
    return torch.stack([torch.ones_like(x), x, y, x * x, x * y, y * y])
