"""`Batch`: what a model trains on, and its masks on the grid of a prediction."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor


@dataclass(slots=True)
class Batch:
    """B images with ragged annotation as flat tensors; masks travel as one region map an image.

    Attributes:
        images: B×C×H×W float32, normalised.
        valid: B×H×W bool; false on padding and on what is ignored.
        regions: B×H×W int32 map of mask targets; 0 belongs to none.
        batch: (n,) int64, the image of each target row; ascending.
        labels: (n,) int64.
        region: (n,) int64, the row's value in `regions`.
        boxes: (n, 4) float32 `(ymin, xmin, ymax, xmax)` pixels, inclusive.
        centers: (n, 2) float32 `(y, x)` pixels.
        keep: (n,) bool; false for rows beyond the cap, which are drawn on the heatmap only.
        image_ids: B ids of the data set.
    """

    images: Tensor
    valid: Tensor
    regions: Tensor
    batch: Tensor
    labels: Tensor
    region: Tensor
    boxes: Tensor
    centers: Tensor
    keep: Tensor
    image_ids: tuple[int | str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    @property
    def dropped(self) -> Tensor:
        """Targets beyond the cap, without a mask loss: a scalar."""
        return (~self.keep).sum()

    def _map(self, function: Any) -> Batch:
        return Batch(
            *(
                function(v) if isinstance(v, Tensor) else v
                for v in (getattr(self, f.name) for f in fields(self))
            )
        )

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same on another device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """The same in pinned memory (called by the data loader)."""
        return self._map(lambda tensor: tensor.pin_memory())


def at_stride(
    maps: Tensor, stride: int, size: tuple[int, int] | None = None, *, first: int | None = None
) -> Tensor:
    """One value of a map for each cell of a coarser grid: pixel `first + i·stride` for cell i.

    Args:
        maps: B×H×W.
        stride: pixels a cell.
        size: (h, w) cells of the result where `stride` does not divide the sides: a cell whose pixel lies
            beyond the edge reads the last one, and a cell that lies beyond it whole is 0. None gives the
            cells whose pixel is inside.
        first: the pixel of cell 0; None reads each cell in its middle, `stride // 2`.

    Returns:
        B×h×w, of the type of `maps`.
    """
    first = stride // 2 if first is None else first
    if size is None:
        return maps[:, first::stride, first::stride]
    for dim, n in ((1, size[0]), (2, size[1])):
        cells, last = torch.arange(n, device=maps.device) * stride, maps.shape[dim] - 1
        inside = (cells <= last).view(-1, 1) if dim == 1 else cells <= last
        maps = maps.index_select(dim, (cells + first).clamp(max=last)) * inside
    return maps


class MaskTargets(NamedTuple):
    """The masks of B images on one grid; as they share no pixel, one number per pixel says whose it is.

    Attributes:
        owner: B×h×w int64, the pixel's mask 0…R-1; -1 is void.
        labels: B×R int64, the class of each mask; -1 where an image has no such mask, or none of its pixels
            lies on the grid.
    """

    owner: Tensor
    labels: Tensor

    @property
    def semantic(self) -> Tensor:
        """B×h×w int64, the class of each pixel; -1 is void."""
        padded = torch.cat([self.labels.new_full((len(self.labels), 1), -1), self.labels], 1)
        return padded.gather(1, self.owner.flatten(1) + 1).view_as(self.owner)


def mask_targets(batch: Batch, size: tuple[int, int]) -> MaskTargets:
    """The masks of a batch on the grid of a prediction.

    Padding, void, crowd and masks beyond the cap (`TargetConfig.max_segments`) are void. Stuff is one mask a
    class, as in the batch's regions.

    Args:
        batch: images of H×W.
        size: (h, w) of the prediction, H and W divided by its stride and rounded up.
    """
    b, height, width = batch.regions.shape
    stride = 1
    while -(-height // stride) > size[0] or -(-width // stride) > size[1]:
        stride *= 2
    # Sides of 32k + 1 pixels have their corners in every map; otherwise a cell is read in its middle, as
    # where masks are enlarged to an answer.
    first = 0 if width % 2 else None
    regions, valid = (at_stride(v, stride, size, first=first) for v in (batch.regions, batch.valid))
    slots = int(batch.region.max()) if len(batch.region) else 0
    table = batch.labels.new_full((b, slots + 1), -1)
    table[batch.batch[batch.keep], batch.region[batch.keep]] = batch.labels[batch.keep]
    owner = torch.where(valid & (regions > 0), regions.long(), 0)
    owner = torch.where(table.gather(1, owner.flatten(1)).view_as(owner) < 0, 0, owner)
    seen = torch.zeros_like(table, dtype=torch.bool).scatter_(1, owner.flatten(1), True)
    return MaskTargets(owner - 1, torch.where(seen, table, -1)[:, 1:])


def region_sums(values: Tensor, targets: MaskTargets) -> Tensor:
    """The sum of each map over each mask, one product for the whole batch.

    Args:
        values: B×N×h×w.
        targets: R masks an image.

    Returns:
        B×N×R, of the type of `values`.
    """
    masks = torch.arange(targets.labels.shape[1], device=values.device)
    members = targets.owner.flatten(1)[..., None] == masks
    return values.flatten(2) @ members.to(values.dtype)
