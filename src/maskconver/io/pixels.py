"""What is worth knowing about a picture that was read all the same."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError


class ImageWarning(UserWarning):
    """A picture was read, but perhaps not as its owner expects; the text says what can be done."""


_kept_warnings: ContextVar[list[str] | None] = ContextVar("_kept_warnings", default=None)


@contextmanager
def kept_warnings() -> Iterator[list[str]]:
    """Keeps the texts of the `ImageWarning`s of the block, of this thread only, instead of giving them.

    Python's own `warnings.catch_warnings` changes the whole process and is not for threads.
    """
    texts: list[str] = []
    token = _kept_warnings.set(texts)
    try:
        yield texts
    finally:
        _kept_warnings.reset(token)


def warn_about(text: str, stacklevel: int = 2) -> None:
    """Gives an `ImageWarning`, or keeps it for the `kept_warnings` around the caller."""
    texts = _kept_warnings.get()
    if texts is None:
        warnings.warn(text, ImageWarning, stacklevel=stacklevel + 1)
    else:
        texts.append(text)


def to_8_bit(values: NDArray[Any], white_level: float | None, name: str, mode: str) -> NDArray[np.uint8]:
    """Grey of more than 8 bits, H×W, to 0…255 by full range or white level, rounded to the nearest value."""
    if values.dtype.byteorder == ">":
        values = values.astype(values.dtype.newbyteorder("="))
    top = float(np.nanmax(values)) if values.size else 0.0
    if white_level is None:
        if mode == "F":
            white_level = 1.0
        elif values.dtype.itemsize == 2 or top <= 65535:
            white_level = 65535.0
        if white_level is None or (mode == "F" and top > 1.0):
            raise ImageError(
                f"{name}: values up to {top:g} in 32 bits: say which is white, e.g. --white-level {top:g}"
            )
        if mode != "F" and 0 < top <= 4095:
            likely = 255 if top <= 255 else 4095
            warn_about(
                f"{name}: 16-bit picture with no value above {top:.0f}, so it looks black; "
                f"if it holds {'8' if likely == 255 else '12'} bits, read it with --white-level {likely}",
                4,
            )
    elif not white_level > 0:
        raise ImageError(f"white level {white_level:g} must be above 0")
    if values.dtype == np.uint16:  # a table is much faster than arithmetic on every pixel
        table = np.minimum(np.arange(65536) * (255.0 / white_level) + 0.5, 255.0).astype(np.uint8)
        return table[values]
    scaled = np.nan_to_num(values.astype(np.float64), nan=0.0) * (255.0 / white_level)
    return np.clip(scaled + 0.5, 0, 255).astype(np.uint8)
