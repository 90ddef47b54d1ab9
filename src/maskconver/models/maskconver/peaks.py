"""From class heatmaps to the K best centres (MaskConver, arXiv 2312.06052, §3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..topk import TopK, stable_topk

PEAK_TOLERANCE = 1e-6


class Peaks(NamedTuple):
    """K peaks an image, highest score first.

    Attributes:
        scores: B×K float32 in 0…1.
        labels: B×K int64.
        cells: B×K×3 int64, (index of the level, y, x).
    """

    scores: Tensor
    labels: Tensor
    cells: Tensor


def peak_scores(heatmap_logits: Tensor, kernel: int = 3) -> Tensor:
    """Sigmoid scores with everything that is not the largest of its window (same class) set to 0.

    Plateaus keep all their cells: a cell stays if it is within 1e-6 of its window's largest.

    Args:
        heatmap_logits: B×C×h×w.
        kernel: window in cells.
    """
    scores = heatmap_logits.float().sigmoid()
    if not scores.shape[1]:  # of no classes, as where a semantic head finds everything
        return scores
    largest = F.max_pool2d(scores, kernel, stride=1, padding=kernel // 2)
    return torch.where(largest - scores < PEAK_TOLERANCE, scores, 0.0)


def top_peaks(
    heatmap_logits: Sequence[Tensor], k: int, kernel: int = 3, *, topk: TopK = stable_topk
) -> Peaks:
    """The k best peaks of all levels, places and classes; equal scores in the order (level, y, x, class).

    Args:
        heatmap_logits: B×C×h×w of every level, finest first.
        k: number of peaks; at most as many as there are cells × classes are returned.
        kernel: window of a peak in cells of its level.
        topk: how the scores are ranked.
    """
    scores = [peak_scores(logits, kernel) for logits in heatmap_logits]
    c = scores[0].shape[1]
    flat = torch.cat([s.permute(0, 2, 3, 1).flatten(1) for s in scores], 1)
    index = topk(flat, k)
    position = index.div(max(c, 1), rounding_mode="floor")
    cells = torch.zeros(*index.shape, 3, dtype=torch.long, device=index.device)
    start = 0
    for level, s in enumerate(scores):
        h, w = s.shape[-2:]
        own = position - start
        y = own.div(w, rounding_mode="floor")
        cell = torch.stack([torch.full_like(own, level), y, own - y * w], -1)
        # A level beyond which a position lies is overwritten by the next one.
        cells = torch.where((own >= 0)[..., None], cell, cells)
        start += h * w
    return Peaks(flat.gather(1, index), index % max(c, 1), cells)


def at_cells(maps: Sequence[Tensor], image: Tensor, cells: Tensor) -> Tensor:
    """The values of maps at n cells anywhere in the batch, n×C.

    Args:
        maps: B×C×h×w of every level.
        image: (n,) int64.
        cells: n×3 int64 (index of the level, y, x).
    """
    level, y, x = cells.unbind(1)
    if len(maps) == 1:  # the same as below, without a copy of the map
        return maps[0][image, :, y, x]
    sizes = [(m.shape[-2], m.shape[-1]) for m in maps]
    widths = torch.tensor([w for _, w in sizes], device=cells.device)
    starts = torch.tensor([0, *(h * w for h, w in sizes)], device=cells.device).cumsum(0)
    positions = torch.cat([m.flatten(2) for m in maps], 2)
    return positions[image, :, starts[level] + y * widths[level] + x]
