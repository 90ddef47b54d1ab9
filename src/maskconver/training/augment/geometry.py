"""Flip, turn, scale jitter, crop and pad as the TensorFlow Model Garden resizes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ...core.preprocess import fitted_size
from ...core.resize import Taps, lerp


@dataclass(frozen=True, slots=True)
class CropGeometry:
    """Where a crop lies in the scaled image.

    Attributes:
        scaled: (height, width) the whole image would have, pixels.
        offset: (y, x) of the crop in it, pixels.
        crop: (height, width) of the canvas; what the scaled image does not cover is padding right and below.
    """

    scaled: tuple[int, int]
    offset: tuple[int, int]
    crop: tuple[int, int]

    @property
    def covered(self) -> tuple[int, int]:
        """(height, width) of the canvas that holds image."""
        return min(self.crop[0], self.scaled[0] - self.offset[0]), min(
            self.crop[1], self.scaled[1] - self.offset[1]
        )


def resize_crop_geometry(
    size: tuple[int, int],
    canvas: tuple[int, int],
    crop: tuple[int, int] | None = None,
    *,
    jitter: float | None = None,
    place: tuple[float, float] = (0.0, 0.0),
    focus: tuple[float, float] | None = None,
) -> CropGeometry:
    """The reference's resize-and-crop; float32, halves to even.

    Args:
        size: (height, width) of the image.
        canvas: the size an unscaled image is fitted to.
        crop: the size that is cut out; the canvas where None.
        jitter: factor on the size the image is fitted to, or None for no jitter (then nothing is cut off).
        place: two draws from 0…1 that place the crop.
        focus: (y, x) of a point that the crop holds, in shares of the sides; `place` then says where in it.
    """
    crop = crop or canvas
    sides = np.array(size, np.float32)
    target = np.array(canvas, np.float32)
    if jitter is None:
        scaled = np.array(fitted_size(size, canvas))
    else:
        target = np.round(np.float32(jitter) * target)
        scaled = np.maximum(np.round(sides * (target / sides).min()), 1).astype(int)
    spare = np.maximum(scaled - np.array(crop), 0)
    offset = np.floor(spare.astype(np.float32) * np.array(place, np.float32)).astype(int)
    if focus is not None:
        point = np.floor(np.array(focus) * scaled)
        offset = np.clip(point - np.floor(np.array(place) * np.array(crop)), 0, spare).astype(int)
    return CropGeometry((int(scaled[0]), int(scaled[1])), (int(offset[0]), int(offset[1])), crop)


def crop_image(image: NDArray, geometry: CropGeometry) -> NDArray[np.float32]:
    """The covered part of the crop, bilinear; only its own pixels are computed.

    Args:
        image: H×W×C, any real type.

    Returns:
        h×w×C float32, h×w = `geometry.covered`.
    """
    result: NDArray = image
    # First what is read at all is cut out, then the axes are resized one after the other.
    axes = []
    for axis in (0, 1):
        begin, end = geometry.offset[axis], geometry.offset[axis] + geometry.covered[axis]
        if geometry.scaled[axis] == image.shape[axis]:
            window = slice(begin, end)
        else:
            taps = Taps.resize(image.shape[axis], geometry.scaled[axis])[begin:end]
            window = slice(int(taps.low[0]), int(taps.high[-1]) + 1)
            first = window.start
            axes.append((axis, replace(taps, low=taps.low - first, high=taps.high - first)))
        result = result[window] if axis == 0 else result[:, window]
    for axis, taps in axes:
        result = lerp(result, taps, axis)
    return np.array(result, np.float32, order="C", copy=None if axes else True)


def crop_map(ids: NDArray[np.int32], geometry: CropGeometry) -> NDArray[np.int32]:
    """The covered part of the crop of an id map, nearest (half-pixel centres), at the image's very place."""
    index = [
        (2 * np.arange(begin, begin + n) + 1) * ids.shape[axis] // (2 * geometry.scaled[axis])
        for axis, (begin, n) in enumerate(zip(geometry.offset, geometry.covered))
    ]
    return ids[index[0][:, None], index[1][None, :]]
