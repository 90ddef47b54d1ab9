"""Targets of kMaX-DeepLab: masks that share no pixel, one a thing and one a stuff class (kmax page §3)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..batch import Batch


class MaskTargets(NamedTuple):
    """The masks of B images on one grid; as they share no pixel, one number a pixel says whose it is.

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
        return _look_up(self.labels, self.owner)


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
    first = 0 if width % 2 else stride // 2
    regions, valid = batch.regions, batch.valid
    for dim, (cells, pixels) in enumerate(zip(size, (height, width)), 1):
        index = (torch.arange(cells, device=regions.device) * stride + first).clamp(max=pixels - 1)
        regions, valid = regions.index_select(dim, index), valid.index_select(dim, index)
    slots = int(batch.region.max()) if len(batch.region) else 0
    table = batch.labels.new_full((b, slots + 1), -1)
    table[batch.batch[batch.keep], batch.region[batch.keep]] = batch.labels[batch.keep]
    owner = torch.where(valid & (regions > 0), regions.long(), 0)
    owner = torch.where(table.gather(1, owner.flatten(1)).view_as(owner) < 0, 0, owner)
    seen = torch.zeros_like(table, dtype=torch.bool).scatter_(1, owner.flatten(1), True)
    return MaskTargets(owner - 1, torch.where(seen, table, -1)[:, 1:])


def _look_up(values: Tensor, index: Tensor) -> Tensor:
    """B×R int64 values at B×h×w indices; -1 at -1."""
    padded = torch.cat([values.new_full((len(values), 1), -1), values], 1)
    return padded.gather(1, index.flatten(1) + 1).view_as(index)
