"""Whatever a notebook has in hand (path, Pillow image, array, tensor) as H×W×3 uint8 RGB, or otherwise."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError
from ..io.images import MAX_PIXELS, from_pillow, read_image
from ..io.pixels import to_bits, with_channels


def as_image(
    value: Any,
    *,
    max_pixels: int = MAX_PIXELS,
    white_level: float | None = None,
    channels: int = 3,
    bits: int = 8,
) -> tuple[NDArray[Any], str]:
    """One image as H×W×C uint8 (uint16 for 16 bits), and its file name ("" where it has none).

    Args:
        value: a path; a Pillow image; an array H×W, H×W×1, ×2 (grey, alpha), ×3 or ×4 (alpha dropped); a
            torch tensor, H×W or C×H×W. Numbers: bool; uint8; uint16 over its full range; other whole numbers
            in 0…255; floats in 0…1.
        max_pixels: files with more are refused.
        white_level: the value shown as white, for anything but uint8.
        channels: what the model takes: 3, RGB; 1, grey (colours become their luma); or another number, which
            the image then must have.
        bits: 8, or 16 where the model keeps what deeper images hold.

    Raises:
        ImageError: not an image, or its values or shape are none of the above.
    """
    if isinstance(value, str | os.PathLike):
        pixels = read_image(
            value, max_pixels=max_pixels, white_level=white_level, channels=channels, bits=bits
        )
        return pixels, Path(value).name
    if hasattr(value, "detach") and hasattr(value, "cpu"):  # a torch tensor, without importing torch
        array = value.detach().cpu()
        array = (array.float() if array.is_floating_point() else array).numpy()
        if array.ndim == 3:
            if len(array) not in (1, 3, 4, channels):
                raise ImageError(
                    f"a tensor of shape {tuple(array.shape)}: give C×H×W with 1, 3 or 4 channels, or H×W"
                )
            array = array.transpose(1, 2, 0)
        return _from_array(array, white_level, channels, bits), ""
    if hasattr(value, "getbands"):  # a Pillow image
        pixels = from_pillow(
            value, max_pixels=max_pixels, white_level=white_level, channels=channels, bits=bits
        )
        return pixels, Path(getattr(value, "filename", "") or "").name
    if not isinstance(value, np.ndarray):
        raise ImageError(
            f"a {type(value).__name__} is not an image; give a path, Pillow image, array or tensor"
        )
    return _from_array(value, white_level, channels, bits), ""


def _from_array(array: NDArray, white_level: float | None, channels: int, bits: int) -> NDArray[Any]:
    shape = array.shape
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 2, 3, 4, channels):
        hint = "; transpose it to H×W×3" if array.ndim == 3 and shape[0] in (1, 3, 4) else ""
        raise ImageError(f"an array of shape {shape} is not an image: give H×W or H×W×3{hint}")
    if array.size == 0:
        raise ImageError(f"an image of shape {shape} has no pixels")
    if channels not in (1, 3):
        if array.shape[2] != channels:
            raise ImageError(
                f"an image of {array.shape[2]} channels, but the model takes {channels}; give all of them, "
                "or use a model for RGB images"
            )
        return np.ascontiguousarray(to_bits(array, bits, white_level=white_level))
    colours = array[..., : 3 if array.shape[2] > 2 else 1]
    return np.ascontiguousarray(with_channels(to_bits(colours, bits, white_level=white_level), channels))
