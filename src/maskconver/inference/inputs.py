"""Whatever a notebook has in hand (path, Pillow picture, array, tensor) as H×W×3 uint8 RGB, or otherwise."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import ImageError
from ..io.images import MAX_PIXELS, read_image
from ..io.pixels import warn_about


def as_image(
    value: Any, *, max_pixels: int = MAX_PIXELS, white_level: float | None = None, channels: int = 3
) -> tuple[NDArray[np.uint8], str]:
    """One picture as H×W×C uint8, and its file name ("" where it has none).

    Args:
        value: a path; a Pillow picture; an array H×W, H×W×1, ×2 (grey, alpha), ×3 or ×4 (alpha dropped); a
            torch tensor, H×W or C×H×W. Numbers: bool; uint8; uint16 over its full range; other whole numbers
            in 0…255; floats in 0…1.
        max_pixels: files with more are refused.
        white_level: the value shown as white, for anything but uint8.
        channels: what the model takes: 3, RGB; 1, grey (colours become their luma); or another number, which
            the picture then must have.

    Raises:
        ImageError: not a picture, or its values or shape are none of the above.
    """
    if isinstance(value, str | os.PathLike):
        picture = read_image(value, max_pixels=max_pixels, white_level=white_level, channels=channels)
        return picture, Path(value).name
    if hasattr(value, "detach") and hasattr(value, "cpu"):  # a torch tensor, without importing torch
        array = value.detach().cpu()
        array = (array.float() if array.is_floating_point() else array).numpy()
        if array.ndim == 3:
            if len(array) not in (1, 3, 4, channels):
                raise ImageError(
                    f"a tensor of shape {tuple(array.shape)}: give C×H×W with 1, 3 or 4 channels, or H×W"
                )
            array = array.transpose(1, 2, 0)
        return _from_array(array, white_level, channels), ""
    if hasattr(value, "getbands"):  # a Pillow picture
        return _from_pillow(value, white_level, channels)
    if not isinstance(value, np.ndarray):
        raise ImageError(
            f"a {type(value).__name__} is not a picture; give a path, Pillow picture, array or tensor"
        )
    return _from_array(value, white_level, channels), ""


def _from_pillow(picture: Any, white_level: float | None, channels: int) -> tuple[NDArray[np.uint8], str]:
    from PIL import ImageOps

    name = Path(getattr(picture, "filename", "") or "").name
    picture = ImageOps.exif_transpose(picture)
    if picture.mode in ("I", "F") or picture.mode.startswith("I;"):
        array = np.asarray(picture)
        if array.dtype == np.int32 and array.size and array.min() >= 0 and array.max() <= 65535:
            array = array.astype(np.uint16)  # Pillow's "I" is how it reads many 16-bit files
        return _from_array(array, white_level, channels), name
    if picture.mode in ("PA", "LA", "La") or (picture.mode == "P" and channels > 3):
        picture = picture.convert("RGBA")
    picture = picture if len(picture.getbands()) == channels != 3 else picture.convert("RGB")
    return _from_array(np.asarray(picture), None, channels), name


def _from_array(array: NDArray, white_level: float | None, channels: int) -> NDArray[np.uint8]:
    shape = array.shape
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 2, 3, 4, channels):
        hint = "; transpose it to H×W×3" if array.ndim == 3 and shape[0] in (1, 3, 4) else ""
        raise ImageError(f"an array of shape {shape} is not one picture: give H×W or H×W×3{hint}")
    if array.size == 0:
        raise ImageError(f"a picture of shape {shape} has no pixels")
    if channels not in (1, 3):
        if array.shape[2] != channels:
            raise ImageError(
                f"a picture of {array.shape[2]} channels, the model takes {channels}; give it all of them, "
                "or take a model of RGB pictures"
            )
        return np.ascontiguousarray(_to_8_bit(array, white_level))
    pixels = _to_8_bit(array[..., : 3 if array.shape[2] > 2 else 1], white_level)
    if channels == 1 and pixels.shape[2] == 3:
        pixels = np.asarray(Image.fromarray(pixels).convert("L"))[..., None]
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], channels)))


def _to_8_bit(values: NDArray, white_level: float | None) -> NDArray[np.uint8]:
    if values.dtype == np.uint8:
        return values
    if values.dtype == bool:
        return values * np.uint8(255)
    if values.dtype.kind not in "iuf":
        raise ImageError(f"an array of {values.dtype} is not a picture; give uint8, uint16 or float in 0…1")
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ImageError("the picture holds NaN or infinite values; replace them first")
    white = white_level
    if white is None and values.dtype.kind == "f":
        white = 1.0
    elif white is None and values.dtype == np.uint16:
        white = 65535.0
        if 0 < high <= 4095:
            warn_about(
                f"16-bit picture with no value above {high:.0f}, so it looks black; if it holds "
                f"{8 if high <= 255 else 12} bits, say white_level={255 if high <= 255 else 4095}",
                4,
            )
    elif white is None:
        white = 255.0
    if not white > 0:
        raise ImageError(f"white level {white:g} must be above 0")
    if white_level is None and (low < -1e-3 * white or high > 1.001 * white):
        raise ImageError(
            f"a {values.dtype} picture with values {low:g}…{high:g}, expected 0…{white:g}; "
            f"say which value is white, e.g. white_level={high:g}"
        )
    return np.clip(values * (255.0 / white) + 0.5, 0, 255).astype(np.uint8)
