"""Numbers of any kind to 8 or 16 bits, one way for files, arrays and tensors; and image warnings."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import ImageError, Message

BAND = 1 << 18  # values that are converted at a time, so that a large image needs no copy in float64


class ImageWarning(Message, UserWarning):
    """An image was read, but perhaps not as its owner expects; the text says what can be done."""


_kept_warnings: ContextVar[list[ImageWarning] | None] = ContextVar("_kept_warnings", default=None)


@contextmanager
def kept_warnings() -> Iterator[list[ImageWarning]]:
    """Keeps the `ImageWarning`s of the block, of this thread only, instead of giving them.

    Python's own `warnings.catch_warnings` changes the whole process and is not for threads.
    """
    kept: list[ImageWarning] = []
    token = _kept_warnings.set(kept)
    try:
        yield kept
    finally:
        _kept_warnings.reset(token)


def warn_about(warning: ImageWarning, stacklevel: int = 2) -> None:
    """Gives an `ImageWarning`, or keeps it for the `kept_warnings` around the caller."""
    kept = _kept_warnings.get()
    if kept is None:
        warnings.warn(warning, stacklevel=stacklevel + 1)
    else:
        kept.append(warning)


def check_white_level(white_level: float | None) -> None:
    """Refuses a white level that is no brightness.

    Raises:
        ImageError: it is 0 or less, infinite or NaN.
    """
    if white_level is not None and not 0 < white_level < math.inf:
        raise ImageError(f"`white_level={white_level:g}` must be a number above 0")


def to_bits(
    values: NDArray[Any], bits: int = 8, *, white_level: float | None = None, name: str = ""
) -> NDArray[Any]:
    """Brightness of any numeric type to 0…255 (or 0…65535), rounded to the nearest value, halves up.

    What counts as white: the white level where it is given; else 1 for floats, 65535 for uint16, 255 for all
    other whole numbers. uint8 stays as it is, true becomes 255.

    Args:
        values: of any shape, e.g. H×W or H×W×C; bool, whole numbers or floats.
        bits: of the result, 8 or 16.
        white_level: the value that becomes white, above 0. Values beyond it become white, values below 0
            zero. It does not apply to uint8.
        name: what messages call the image.

    Returns:
        The same shape, uint8, or uint16 for 16 bits.

    Raises:
        ImageError: not numbers; NaN or infinite values; without `white_level` also values below 0 or above
            white by more than a thousandth of it; a white level that is not above 0.

    Warns:
        ImageWarning: uint16 without `white_level` whose values fill 12 bits at most, so that it looks black.
    """
    check_white_level(white_level)
    values = values.astype(values.dtype.newbyteorder("="), copy=False)  # FITS and others have `>u2`
    name, top = name or "the image", np.uint16(65535) if bits == 16 else np.uint8(255)
    if values.dtype == np.uint8:
        return values if bits == 8 else values * np.uint16(257)
    if values.dtype == bool:
        return values * top
    if values.dtype.kind not in "iuf":
        what = f"values of type {values.dtype} are no brightness"
        raise ImageError(what, where=name, fix="give uint8, uint16 or floats in 0…1")
    if not values.size:
        return values.astype(top.dtype)
    low, high = float(values.min()), float(values.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ImageError("holds NaN or infinite values", where=name, fix="replace them first")
    white = white_level or _white(values.dtype)
    if white_level is None:
        _require_in_range(values.dtype, low, high, white, name)
        if bits == 8 and values.dtype == np.uint16 and 0 < high <= 4095:
            depth, level = (8, 255) if high <= 255 else (12, 4095)
            text = f"16-bit image with no value above {high:.0f}, so it looks black"
            fix = f"if it holds {depth} bits, say `white_level={level}`"
            warn_about(ImageWarning(text, where=name, fix=fix), 3)
    if values.dtype == np.uint16:  # a table is much faster than arithmetic on every pixel
        return values if bits == 16 and white == 65535 else _scaled(np.arange(65536), white, top)[values]
    flat = values.reshape(-1)
    out = np.empty(flat.shape, top.dtype)
    for start in range(0, flat.size, BAND):
        out[start : start + BAND] = _scaled(flat[start : start + BAND], white, top)
    return out.reshape(values.shape)


def without_alpha(values: NDArray[Any], channels: int) -> NDArray[Any]:
    """H×W×C without the alpha that the channels asked for (1 or 3) have no place for."""
    return values[..., :-1] if channels in (1, 3) and values.shape[2] in (2, 4) else values


def with_channels(pixels: NDArray[Any], channels: int) -> NDArray[Any]:
    """H×W×C, with C = 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGB, alpha), as H×W×`channels`.

    To 1 and 3 channels alpha is dropped, grey repeated, colours become their luma; 4 stay as they are.
    """
    if channels == pixels.shape[2]:
        return pixels
    if pixels.shape[2] < 3:
        return np.broadcast_to(pixels[..., :1], (*pixels.shape[:2], channels))
    pixels = pixels[..., :3]
    if channels == 3:
        return pixels
    if pixels.dtype == np.uint16:  # the same luma as Pillow's of 8 bits
        luma = pixels.astype(np.uint32) @ np.array([19595, 38470, 7471], np.uint32) + np.uint32(1 << 15)
        return (luma >> 16).astype(np.uint16)[..., None]
    return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).convert("L"))[..., None]


def _white(dtype: np.dtype[Any]) -> float:
    if dtype.kind == "f":
        return 1.0
    return 65535.0 if dtype.kind == "u" and dtype.itemsize == 2 else 255.0


def _require_in_range(dtype: np.dtype[Any], low: float, high: float, white: float, name: str) -> None:
    if low >= -1e-3 * white and high <= 1.001 * white:
        return
    what = f"{dtype.name} values {low:g}…{high:g}, expected 0…{white:g}"
    if high <= 0:
        raise ImageError(what, where=name, fix="shift them so that black is 0")
    below = " (values below 0 become black)" if low < 0 else ""
    raise ImageError(what, where=name, fix=f"say which value is white, e.g. `white_level={high:g}`{below}")


def _scaled(values: NDArray[Any], white: float, top: np.unsignedinteger[Any]) -> NDArray[Any]:
    share = values.astype(np.float64) * float(top) / white
    return np.clip(np.floor(share + 0.5), 0, top).astype(top.dtype)
