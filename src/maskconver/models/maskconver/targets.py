"""What MaskConver's maps are compared with: centre heatmaps by level, centres, and the masks of regions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ..batch import Batch, MaskTargets, at_stride, mask_targets

Gaussian = Literal["iou", "size"]
SIZE_SIGMA, SIGMAS = 0.18, (0.5, 2.0)  # of a side; smallest and largest, cells
CHUNK_CELLS = 1 << 24  # heatmap cells held at a time: 64 MB of float32


class Level(NamedTuple):
    """The targets of one level of the pyramid, on its grid.

    Attributes:
        heatmap: B×C×h×w float32 in 0…1, see `center_heatmaps`.
        counted: B×C×h×w bool, the cells that count in the centre loss.
        regions: B×h×w int32, `Batch.regions` read in the middle of each cell.
        stride: pixels of the image per cell, along one side.
    """

    heatmap: Tensor
    counted: Tensor
    regions: Tensor
    stride: int


@dataclass(slots=True)
class Targets:
    """The targets of a batch; m centres, ordered by image, level and row of the batch.

    A segment may have a centre on two levels, or on none; see `assign_levels`.

    Attributes:
        levels: finest first.
        image: (m,) int64, the image of each centre; ascending.
        label: (m,) int64.
        region: (m,) int64, the value of the centre's mask in `regions`.
        boxes: m×4 float `(ymin, xmin, ymax, xmax)` in pixels, inclusive.
        cells: m×3 int64 (index of the level, y, x).
        masked: (m,) bool, whether the centre's mask is learnt; false beyond the cap.
        regions: B×H'×W' int32, on the grid of the mask losses; 0 belongs to no mask.
        valid: B×H'×W' bool, its cells that count.
        size: (h, w) of the mask features over the image, without what the network pads itself.
        around: further cells that count as a centre, of `cells_around`: (k,) which centre and k×3 int64;
            None where they were not asked for.
        masks: the same masks on the grid of the mask features; None where nobody needs them.
        semantic: B×h'×w' int64, the class of each cell of a semantic head's loss; -1 is void. None without
            such a head.
    """

    levels: tuple[Level, ...]
    image: Tensor
    label: Tensor
    region: Tensor
    boxes: Tensor
    cells: Tensor
    masked: Tensor
    regions: Tensor
    valid: Tensor
    size: tuple[int, int]
    around: tuple[Tensor, Tensor] | None = None
    masks: MaskTargets | None = None
    semantic: Tensor | None = None


@torch.no_grad()
def center_targets(
    batch: Batch,
    heatmaps: Sequence[tuple[int, int, int]],
    levels: Sequence[int],
    *,
    ranges: tuple[tuple[float, float], ...] | None,
    stride: int,
    mask_loss_stride: int,
    min_iou: float = 0.7,
    gaussian: Gaussian = "iou",
    positive: float = 1.0,
    around: bool = False,
    is_thing: Tensor | None = None,
    only_things: bool = False,
    dense: bool = False,
) -> Targets:
    """The targets of a batch for the levels of a model.

    Args:
        batch: images of H×W. Where `stride` divides H and W, masks lie exactly on their pixels, otherwise
            they are off by less than a cell at the far edges.
        heatmaps: (C, h, w) of the heatmap of every level.
        levels: log2 of their strides.
        ranges: see `assign_levels`.
        stride: pixels of the image per cell of the mask features, along one side.
        mask_loss_stride: the same of the mask losses.
        min_iou: of the Gaussians.
        gaussian: see `gaussian_sigmas`.
        positive: cells of a thing where its Gaussian is at least this are centres, too.
        around: whether those cells are wanted in `Targets.around`.
        is_thing: (C,) bool, by label; None where everything is one.
        only_things: stuff has no centres, and its heatmaps do not count; a semantic head finds it.
        dense: whether the masks are needed on the grid of the mask features.
    """
    rows, level = assign_levels(batch.boxes, batch.batch, ranges)
    if only_things:
        assert is_thing is not None
        things = is_thing[batch.labels[rows]]
        rows, level = rows[things], level[things]
    boxes, centers, label, image = (v[rows] for v in (batch.boxes, batch.centers, batch.labels, batch.batch))
    more = around or positive < 1
    if more:
        alone = _has_own_region(batch)[rows]
        if is_thing is not None:
            alone &= is_thing[label]
    cells = torch.stack([level, torch.zeros_like(level), torch.zeros_like(level)], 1)
    grids, owners, places = [], [], []
    for index, ((c, h, w), exponent) in enumerate(zip(heatmaps, levels)):
        here, cell = (level == index).nonzero()[:, 0], 1 << exponent
        cells[here, 1:] = center_cells(centers[here], cell, (h, w))
        heatmap = center_heatmaps(
            boxes[here],
            centers[here],
            label[here],
            batch=image[here],
            shape=(len(batch), c, h, w),
            stride=cell,
            min_iou=min_iou,
            gaussian=gaussian,
        )
        regions = at_stride(batch.regions, cell, (h, w))
        if more:
            mine = (alone & (level == index)).nonzero()[:, 0]
            found, at = cells_around(
                regions,
                image[mine],
                batch.region[rows[mine]],
                boxes=boxes[mine],
                cells=cells[mine, 1:],
                stride=cell,
                min_iou=min_iou,
                gaussian=gaussian,
                positive=positive,
            )
            found = mine[found]
            owners.append(found)
            places.append(torch.cat([torch.full_like(found, index)[:, None], at], 1))
            heatmap[image[found], label[found], at[:, 0], at[:, 1]] = 1
        # A centre counts even where its cell is void, as in the hole of a ring or at the padding's edge.
        counted = at_stride(batch.valid, cell, (h, w))[:, None] | (heatmap == 1)
        if only_things and is_thing is not None:
            counted = counted & is_thing[:, None, None]
        grids.append(Level(heatmap, counted, regions, cell))
    height, width = (-(-n // stride) for n in batch.images.shape[-2:])
    fine = min(mask_loss_stride, stride)
    fine_size = -(-batch.images.shape[-2] // fine), -(-batch.images.shape[-1] // fine)
    return Targets(
        tuple(grids),
        image,
        label,
        batch.region[rows],
        boxes,
        cells,
        batch.keep[rows],
        at_stride(batch.regions, mask_loss_stride),
        at_stride(batch.valid, mask_loss_stride),
        (height, width),
        (torch.cat(owners), torch.cat(places)) if around else None,
        mask_targets(batch, (height, width)) if dense else None,
        mask_targets(batch, fine_size).semantic if only_things else None,
    )


def _has_own_region(batch: Batch) -> Tensor:
    """(n,) bool, of the rows of a batch: whether no other row has the same region."""
    most = int(batch.region.max()) + 1 if len(batch.region) else 1
    key = batch.batch * most + batch.region
    return torch.bincount(key, minlength=len(batch) * most)[key] == 1


def cells_around(
    regions: Tensor,
    image: Tensor,
    region: Tensor,
    *,
    boxes: Tensor,
    cells: Tensor,
    stride: int,
    min_iou: float,
    positive: float,
    gaussian: Gaussian = "iou",
) -> tuple[Tensor, Tensor]:
    """The cells of n masks that count as a centre: where its Gaussian is at least `positive` (ours).

    Args:
        regions: B×h×w int, whose each cell is.
        image: (n,) int64.
        region: (n,) int64, the mask's value in `regions`; no two masks share one.
        boxes: n×4 float `(ymin, xmin, ymax, xmax)` in pixels, inclusive.
        cells: n×2 int64 (y, x), the centres.
        stride: pixels a cell.
        min_iou, gaussian: see `gaussian_sigmas`.
        positive: above 0 to 1.

    Returns:
        (k,) int64, which mask, and k×2 int64 (y, x).
    """
    most = int(regions.max()) + 1 if regions.numel() else 1
    row_of = torch.full((len(regions) * most,), -1, device=regions.device)
    seen = region < most  # others have no cell
    rows = torch.arange(len(region), device=regions.device)
    row_of[(image * most + region)[seen]] = rows[seen]
    where, y, x = regions.nonzero().unbind(1)
    owner = row_of[where * most + regions[where, y, x].long()]
    owner, y, x = (v[owner >= 0] for v in (owner, y, x))
    at = torch.stack([y, x], 1)
    sigmas = gaussian_sigmas(boxes[owner], stride, min_iou, gaussian=gaussian)
    near = torch.exp(-0.5 * ((at - cells[owner]) / sigmas).square().sum(1)) >= positive
    return owner[near], at[near]


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
    """Sigma in cells, (n,), of boxes (n, 4) `(ymin, xmin, ymax, xmax)` in pixels."""
    height, width = ((boxes[:, 2:] - boxes[:, :2]) / stride).unbind(1)
    return (2 * gaussian_radius(height, width, min_iou).floor().clamp(min=0) + 1) / 6


def gaussian_sigmas(
    boxes: Tensor, stride: int, min_iou: float = 0.7, *, gaussian: Gaussian = "iou"
) -> Tensor:
    """(n, 2) sigma in cells along y and x.

    By `size` it follows the sides of the box (ours), as in TTFNet (arXiv 1909.00700, §3.2) but twice as wide,
    and never wider than 2 cells, so that large objects do not outweigh small ones.

    Args:
        boxes: (n, 4) `(ymin, xmin, ymax, xmax)` in pixels, inclusive.
        stride: pixels a cell.
        min_iou: of `iou`, see `gaussian_radius`.
        gaussian: `iou`, as published, or `size`.
    """
    if gaussian == "iou":
        return gaussian_sigma(boxes, stride, min_iou)[:, None].expand(-1, 2)
    return ((boxes[:, 2:] - boxes[:, :2] + 1) / stride * SIZE_SIGMA).clamp(*SIGMAS)


def center_cells(centers: Tensor, stride: int, size: tuple[int, int]) -> Tensor:
    """(n, 2) int64 heatmap cells of centres (n, 2) `(y, x)` in pixels."""
    cells = (centers / stride).floor().long()
    return torch.minimum(cells, torch.tensor(size, device=cells.device) - 1)


def center_heatmaps(
    boxes: Tensor,
    centers: Tensor,
    labels: Tensor,
    *,
    batch: Tensor,
    shape: tuple[int, int, int, int],
    stride: int,
    min_iou: float = 0.7,
    gaussian: Gaussian = "iou",
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
        min_iou, gaussian: see `gaussian_sigmas`.

    Returns:
        B×C×h×w float32 in 0…1.
    """
    b, c, h, w = shape
    heatmaps = torch.zeros(b * c, h, w, device=boxes.device)
    cells = center_cells(centers, stride, (h, w))
    scale = -0.5 / gaussian_sigmas(boxes, stride, min_iou, gaussian=gaussian) ** 2
    rows, columns = torch.arange(h, device=boxes.device), torch.arange(w, device=boxes.device)
    plane = batch * c + labels
    step = max(CHUNK_CELLS // (h * w), 1)
    for part in torch.arange(len(boxes), device=boxes.device).split(step):
        # The Gaussian is separable: two short exponentials instead of h·w of them.
        y = torch.exp((rows - cells[part, :1]) ** 2 * scale[part, :1])
        x = torch.exp((columns - cells[part, 1:]) ** 2 * scale[part, 1:])
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
