"""From a class heatmap to the K best centres (reference page §6)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

PEAK_TOLERANCE = 1e-6


class Peaks(NamedTuple):
    """K peaks an image, highest score first.

    Attributes:
        scores: B×K float32 in 0…1.
        labels: B×K int64.
        cells: B×K×2 int64, (y, x) on the heatmap.
    """

    scores: Tensor
    labels: Tensor
    cells: Tensor


def peak_scores(heatmap_logits: Tensor, kernel: int = 3) -> Tensor:
    """Sigmoid scores with everything that is not the largest of its window (same class) set to 0.

    Plateaus keep all their cells: a cell stays if it is within 1e-6 of its window's largest.
    """
    scores = heatmap_logits.float().sigmoid()
    largest = F.max_pool2d(scores, kernel, stride=1, padding=kernel // 2)
    return torch.where((scores - largest).abs() < PEAK_TOLERANCE, scores, 0.0)


def top_peaks(heatmap_logits: Tensor, k: int, kernel: int = 3) -> Peaks:
    """The k best peaks over all places and classes; equal scores in the order (y, x, class).

    Args:
        heatmap_logits: B×C×H×W.
        k: number of peaks; at most C·H·W of them are returned.
        kernel: window of a peak in cells.
    """
    b, c, _, w = heatmap_logits.shape
    flat = peak_scores(heatmap_logits, kernel).permute(0, 2, 3, 1).reshape(b, -1)
    n = flat.shape[1]
    # topk promises nothing about ties. Scores are ≥ 0, so their bits order as they do; with the position
    # below the bits every key is different and a tie goes to the lower position.
    keys = (flat.view(torch.int32).long() << 32) | torch.arange(n - 1, -1, -1, device=flat.device)
    index = (n - 1) - (keys.topk(min(k, n), dim=1).values & 0xFFFFFFFF)
    cells = torch.stack(
        [index.div(c * w, rounding_mode="floor"), index.div(c, rounding_mode="floor") % w], -1
    )
    return Peaks(flat.gather(1, index), index % c, cells)
