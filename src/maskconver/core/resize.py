"""Bilinear and nearest resizing in NumPy, half-pixel centres, no antialiasing: the reference's resize."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Taps:
    """Where each output position of one axis reads its source: two neighbours and the weight of the second.

    Attributes:
        low, high: (n,) int64 source indices.
        weight: (n,) float32 in 0…1, the share of `high`.
        inside: (n,) bool, false where the output lies beyond the source image.
    """

    low: NDArray[np.int64]
    high: NDArray[np.int64]
    weight: NDArray[np.float32]
    inside: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.low)

    @classmethod
    def at(
        cls, positions: NDArray[np.floating], length: int, inside: NDArray[np.bool_] | None = None
    ) -> Taps:
        """Taps that read an axis of `length` cells at `positions` (0 = centre of the first), clipped."""
        clipped = np.clip(positions, 0, length - 1)
        low = np.floor(clipped).astype(np.int64)
        weight = (clipped - low).astype(np.float32)
        everywhere = np.ones(len(low), bool) if inside is None else inside
        return cls(low, np.minimum(low + 1, length - 1), weight, everywhere)

    def __getitem__(self, part: slice) -> Taps:
        """The taps of a stretch of the output."""
        return Taps(self.low[part], self.high[part], self.weight[part], self.inside[part])

    @classmethod
    def resize(cls, length: int, target: int, span: float | None = None) -> Taps:
        """Taps that resize an axis from `length` to `target` cells.

        Args:
            length: cells of the source.
            target: cells of the result, which cover the source's first `span` cells.
            span: all of them if left out; less where the last cell is only partly inside the image.
        """
        # float32 as in torch and TensorFlow: the same weights to the last bit or nearly so
        half, step = np.float32(0.5), np.float32((span or length) / target)
        positions = (np.arange(target, dtype=np.float32) + half) * step - half
        return cls.at(positions, length)


def resize_bilinear(array: NDArray, size: tuple[int, int]) -> NDArray[np.float32]:
    """Resize to `size` with half-pixel centres and no antialiasing.

    Equals torch's `interpolate(mode="bilinear", align_corners=False, antialias=False)` to rounding.

    Args:
        array: H×W or H×W×C, any real type.
        size: (height, width) of the result, each at least 1.

    Returns:
        h×w[×C] float32.
    """
    for axis, target in enumerate(size):
        if array.shape[axis] != target:
            array = lerp(array, Taps.resize(array.shape[axis], target), axis)
    return array.astype(np.float32, copy=False)


def resize_nearest(array: NDArray, size: tuple[int, int]) -> NDArray:
    """Resize maps of ids to `size`: output i reads source `floor((i + 0.5) * in / out)`.

    Equals torch's `nearest-exact`, not its `nearest`.

    Args:
        array: H×W or H×W×C of any type.
        size: (height, width) of the result, each at least 1.

    Returns:
        h×w[×C] of the same type.
    """
    for axis, target in enumerate(size):
        length = array.shape[axis]
        if length != target:
            # (2i + 1) * in // (2 out) is the same index in whole numbers, free of rounding.
            array = np.take(array, (2 * np.arange(target) + 1) * length // (2 * target), axis=axis)
    return array


def lerp(array: NDArray, taps: Taps, axis: int) -> NDArray[np.float32]:
    """Read one axis of an array at the taps; the axis gets their length."""
    low = np.take(array, taps.low, axis=axis).astype(np.float32, copy=False)
    high = np.take(array, taps.high, axis=axis).astype(np.float32, copy=False)
    return interpolate(low, high, taps.weight.reshape([-1 if i == axis else 1 for i in range(array.ndim)]))


def interpolate(low: Any, high: Any, weight: Any) -> Any:
    """`low + weight · (high - low)`, in the memory of its arguments; arrays or tensors."""
    high -= low
    high *= weight
    low += high
    return low
