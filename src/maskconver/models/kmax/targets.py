"""Targets of kMaX-DeepLab (arXiv 2207.04044): one mask a thing and one a stuff class, none shares pixels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from torch import Tensor

from ..batch import Batch, MaskTargets, mask_targets

Size = tuple[int, int]


class Targets(NamedTuple):
    """What the outputs of a batch are compared with, each grid made once.

    Attributes:
        masks: those of every image on the grid of the final output.
        classes: by the (h, w) of a grid, the class of each of its pixels, B×h×w int64; -1 is void.
    """

    masks: MaskTargets
    classes: dict[Size, Tensor]


def kmax_targets(batch: Batch, size: Size, others: Iterable[Size] = ()) -> Targets:
    """The targets of a batch.

    Args:
        batch: images of H×W.
        size: (h, w) of the final output: H and W divided by its stride and rounded up.
        others: of the outputs that are compared with classes alone.
    """
    masks = mask_targets(batch, size)
    grids = {(h, w) for h, w in others}
    return Targets(masks, {grid: _classes(batch, masks, grid, size) for grid in grids})


def _classes(batch: Batch, masks: MaskTargets, grid: Size, size: Size) -> Tensor:
    return (masks if grid == size else mask_targets(batch, grid)).semantic
