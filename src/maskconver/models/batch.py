"""`Batch`: what a model trains on."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

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
