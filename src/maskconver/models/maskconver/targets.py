"""Gaussian centre heatmaps (reference page §4, *Gaussian*), a whole batch at once on its device."""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK_CELLS = 1 << 24  # heatmap cells held at a time: 64 MB of float32


def gaussian_radius(height: Tensor, width: Tensor, min_iou: float = 0.7) -> Tensor:
    """The radius within which a shifted box still overlaps by `min_iou`.

    The roots are not divided by 2a, as in CenterNet's code.

    Args:
        height, width: box sides in heatmap cells, any shape, float.
        min_iou: overlap in 0…1.
    """
    m, total, product = min_iou, height + width, height * width
    r1 = _root(1, total, product * (1 - m) / (1 + m))
    r2 = _root(4, 2 * total, (1 - m) * product)
    r3 = _root(4 * m, -2 * m * total, (m - 1) * product)
    return torch.minimum(torch.minimum(r1, r2), r3)


def _root(a: float, b: Tensor, c: Tensor) -> Tensor:
    return (b + (b * b - 4 * a * c).sqrt()) / 2


def gaussian_sigma(boxes: Tensor, stride: int, min_iou: float = 0.7) -> Tensor:
    """sigma in cells, (n,), of boxes (n, 4) `(ymin, xmin, ymax, xmax)` in pixels."""
    height, width = ((boxes[:, 2:] - boxes[:, :2]) / stride).unbind(1)
    return (2 * gaussian_radius(height, width, min_iou).floor().clamp(min=0) + 1) / 6


def center_cells(centers: Tensor, stride: int, size: tuple[int, int]) -> Tensor:
    """(n, 2) int64 heatmap cells of centres (n, 2) `(y, x)` in pixels."""
    cells = (centers / stride).floor().long()
    return torch.minimum(cells, torch.tensor(size, device=cells.device) - 1)


def center_heatmaps(
    boxes: Tensor,
    centers: Tensor,
    labels: Tensor,
    batch: Tensor,
    shape: tuple[int, int, int, int],
    stride: int,
    min_iou: float = 0.7,
) -> Tensor:
    """Heatmap targets: per class the largest of its centres' Gaussians, exactly 1 at a centre's cell.

    The Gaussians are not cut off at the radius.

    Args:
        boxes: (n, 4) float `(ymin, xmin, ymax, xmax)` pixels, inclusive.
        centers: (n, 2) float `(y, x)` pixels.
        labels: (n,) int64.
        batch: (n,) int64, which image.
        shape: B, C, h, w of the result.
        stride: pixels a cell.
        min_iou: see `gaussian_radius`.

    Returns:
        B×C×h×w float32 in 0…1.
    """
    b, c, h, w = shape
    heatmaps = torch.zeros(b * c, h, w, device=boxes.device)
    cells = center_cells(centers, stride, (h, w))
    scale = -0.5 / gaussian_sigma(boxes, stride, min_iou) ** 2
    rows, columns = torch.arange(h, device=boxes.device), torch.arange(w, device=boxes.device)
    plane = batch * c + labels
    step = max(CHUNK_CELLS // (h * w), 1)
    for part in torch.arange(len(boxes), device=boxes.device).split(step):
        # The Gaussian is separable: two short exponentials instead of h·w of them.
        y = torch.exp((rows - cells[part, :1]) ** 2 * scale[part, None])
        x = torch.exp((columns - cells[part, 1:]) ** 2 * scale[part, None])
        gaussians = y[:, :, None] * x[:, None, :]
        heatmaps.scatter_reduce_(0, plane[part, None, None].expand_as(gaussians), gaussians, "amax")
    return heatmaps.view(b, c, h, w)


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
