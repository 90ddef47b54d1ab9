"""From class heatmaps to the K best centres (mobile page §6, multi-scale page §4)."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

PEAK_TOLERANCE = 1e-6
# torch 2.6 trains and predicts, too; only exporting needs 2.7, as the extra says.
is_exporting = getattr(torch.compiler, "is_exporting", lambda: False)
# Set while a graph is drawn that PyTorch itself will run.
for_torch: ContextVar[bool] = ContextVar("for_torch", default=False)


class Peaks(NamedTuple):
    """K peaks an image, highest score first.

    Attributes:
        scores: B×K float32 in 0…1.
        labels: B×K int64.
        cells: B×K×2 int64, (y, x) on the heatmap; of a pyramid B×K×3, (index of the level, y, x).
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
    return torch.where(largest - scores < PEAK_TOLERANCE, scores, 0.0)


def _best(flat: Tensor, k: int) -> Tensor:
    """Indices of the k largest of B×n scores ≥ 0, largest first, the lower index first on a tie."""
    n = flat.shape[1]
    if is_exporting() and not for_torch.get():
        # ONNX and TensorFlow Lite have no such view; their TopK gives the lower index first by definition.
        return flat.topk(torch.sym_min(k, n), dim=1).indices
    # topk promises nothing about ties. Scores are ≥ 0, so their bits order as they do; with the position
    # below the bits every key is different and a tie goes to the lower position.
    keys = (flat.view(torch.int32).long() << 32) | torch.arange(n - 1, -1, -1, device=flat.device)
    return (n - 1) - (keys.topk(torch.sym_min(k, n), dim=1).values & 0xFFFFFFFF)


def top_peaks(heatmap_logits: Tensor, k: int, kernel: int = 3) -> Peaks:
    """The k best peaks over all places and classes; equal scores in the order (y, x, class).

    Args:
        heatmap_logits: B×C×H×W.
        k: number of peaks; at most C·H·W of them are returned.
        kernel: window of a peak in cells.
    """
    peaks = pyramid_peaks((heatmap_logits,), k, kernel)
    return peaks._replace(cells=peaks.cells[..., 1:])


def pyramid_peaks(heatmap_logits: Sequence[Tensor], k: int, kernel: int = 3) -> Peaks:
    """The k best peaks of all levels together (multi-scale page §4); equal scores by (level, y, x, class).

    Args:
        heatmap_logits: B×C×h×w of every level, finest first.
        k: number of peaks; at most as many as there are cells × classes are returned.
        kernel: window of a peak in cells of its level.

    Returns:
        Peaks whose cells are B×K×3: (index of the level, y, x).
    """
    scores = [peak_scores(logits, kernel) for logits in heatmap_logits]
    c = scores[0].shape[1]
    flat = torch.cat([s.permute(0, 2, 3, 1).flatten(1) for s in scores], 1)
    index = _best(flat, k)
    position = index.div(c, rounding_mode="floor")
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
    return Peaks(flat.gather(1, index), index % c, cells)
