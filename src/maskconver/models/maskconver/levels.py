"""Which level of a pyramid answers for which segment (multi-scale page §2.3)."""

from __future__ import annotations

import torch
from torch import Tensor


def assign_levels(
    boxes: Tensor, batch: Tensor, ranges: tuple[tuple[float, float], ...] | None
) -> tuple[Tensor, Tensor]:
    """The levels of every segment, by half the diagonal of its box: `low ≤ sqrt(h² + w²)/2 ≤ high`.

    A segment may lie on two levels, where ranges overlap or meet, or on none, where they leave a gap.

    Args:
        boxes: (n, 4) `(ymin, xmin, ymax, xmax)` in pixels of the input, inclusive.
        batch: (n,) int64, the image of each; ascending.
        ranges: (low, high) in pixels of each level, finest first; None for one level that takes everything.

    Returns:
        Rows of `boxes` and the index of the level of each, (m,) int64 both, ordered by image, level and row.
    """
    if ranges is None:
        rows = torch.arange(len(boxes), device=boxes.device)
        return rows, torch.zeros_like(rows)
    low, high = boxes.new_tensor(ranges).unbind(1)
    reach = (boxes[:, 2:] - boxes[:, :2]).square().sum(1).sqrt() / 2
    level, rows = ((low[:, None] <= reach) & (reach <= high[:, None])).nonzero().unbind(1)
    order = batch[rows].argsort(stable=True)
    return rows[order], level[order]
