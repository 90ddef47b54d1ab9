"""Large TIFF files read window by window, through tifffile (extra `tiff`)."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.segments import let_go
from ..errors import ImageError, one_line
from .tiff import JPEG, MAGIC, damaged, is_whole, require_sound

CACHE_BYTES = 1 << 27  # of decoded parts of a file that are kept, as windows overlap
_ORIENTATION, _SPARSE = 274, 0
_PLAIN, _YCBCR, _JPEG = (1, 2), 6, 7  # grey with 0 as black, and RGB; YCbCr that a decoder makes RGB


class TiffWindows:
    """The first image of a TIFF or OME-TIFF at full resolution; only what a window needs is decoded.

    Args:
        path: the file.

    Attributes:
        shape: (height, width, channels).
        in_parts: whether it can be read window by window: it lies in tiles, strips or uncompressed, upright,
            in grey, RGB or channels of any other number; no palette, inverted grey or colours of print.

    Raises:
        ImageError: not a TIFF that tifffile can open.
        ModuleNotFoundError: tifffile is not installed.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        from tifffile import TiffFile, memmap

        self.path = os.fspath(path)
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, NDArray[Any]] = OrderedDict()
        with Path(path).open("rb") as file:
            require_sound(file, self.path, page=None)
        try:
            self._file = TiffFile(path)
            page = self._page = self._file.pages.first
            plain = page.is_memmappable and page.imagedepth == 1 and page.planarconfig == 1
            self._values = memmap(path, page=0, mode="r") if plain else None
        except Exception as error:  # tifffile raises almost anything on damaged files
            raise self._damaged(error) from None
        self.shape = page.imagelength, page.imagewidth, page.samplesperpixel
        self._part = (
            (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, self.shape[1])
        )
        known = page.photometric in _PLAIN or (page.photometric, page.compression) == (_YCBCR, _JPEG)
        upright = page.tags.valueof(_ORIENTATION, 1) == 1 and known
        parts = len(page.dataoffsets) > (page.samplesperpixel if page.planarconfig == 2 else 1)
        self.in_parts = bool(upright and page.imagedepth == 1 and (parts or plain))

    def read(self, window: tuple[slice, slice]) -> NDArray[Any]:
        """The values of a window, h×w×C in the type of the file; from any thread.

        Raises:
            ImageError: a part of the file is damaged or missing.
        """
        rows, columns = window
        height, width, channels = rows.stop - rows.start, columns.stop - columns.start, self.shape[2]
        if self._values is not None:
            native = self._values.dtype.newbyteorder("=")
            values = self._values[rows, columns].astype(native).reshape(height, width, channels)
            let_go(self._values)
            return values
        out = np.zeros((height, width, channels), self._page.dtype)
        (part_height, part_width), separate = self._part, self._page.planarconfig == 2
        across, down = -(-self.shape[1] // part_width), -(-self.shape[0] // part_height)
        for plane in range(channels if separate else 1):
            for i in range(rows.start // part_height, -(-rows.stop // part_height)):
                for j in range(columns.start // part_width, -(-columns.stop // part_width)):
                    part = self._decoded((plane * down + i) * across + j)
                    if part is None:
                        continue
                    top, left = i * part_height, j * part_width
                    y, x = max(rows.start, top), max(columns.start, left)
                    cut = part[y - top : rows.stop - top, x - left : columns.stop - left]
                    target = (
                        slice(y - rows.start, y - rows.start + cut.shape[0]),
                        slice(x - columns.start, x - columns.start + cut.shape[1]),
                    )
                    out[target][..., plane : plane + 1 if separate else None] = cut
        return out

    def _decoded(self, index: int) -> NDArray[Any] | None:
        """A tile or strip, h×w×samples; None where the file leaves it out."""
        page = self._page
        with self._lock:
            if index in self._kept:
                self._kept.move_to_end(index)
                return self._kept[index]
            try:
                size = page.databytecounts[index]
                if size == _SPARSE:
                    return None
                self._file.filehandle.seek(page.dataoffsets[index])
                data = self._file.filehandle.read(size)
                if len(data) < size:
                    raise ValueError("the file ends too early")
            except Exception as error:
                raise self._damaged(error, index) from None
        try:
            if page.compression in JPEG and not is_whole(data):
                raise ValueError("it ends too early")
            values, _, (_, height, width, _) = page.decode(data, index, jpegtables=page.jpegtables)
        except Exception as error:
            raise self._damaged(error, index) from None
        if values is None:
            return None
        part = values[0, :height, :width]
        with self._lock:
            self._kept[index] = part
            while len(self._kept) > 1 and len(self._kept) * part.nbytes > CACHE_BYTES:
                self._kept.popitem(last=False)
        return part

    def _damaged(self, error: Exception, index: int | None = None) -> ImageError:
        if index is None:
            return damaged(one_line(error), self.path)
        parts = len(self._page.dataoffsets)
        return damaged(one_line(error), self.path, 0, part=index, parts=parts)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def open_windows(path: str | os.PathLike[str], least_pixels: int) -> TiffWindows | None:
    """A file that can be read window by window; None for any other, and for small ones.

    Args:
        path: any file.
        least_pixels: files with fewer are decoded as a whole faster.

    Raises:
        ImageError: a damaged TIFF.
    """
    try:
        with Path(path).open("rb") as file:
            if file.read(4) not in MAGIC:
                return None
        windows = TiffWindows(path)
    except (OSError, ModuleNotFoundError):
        return None
    if windows.in_parts and windows.shape[0] * windows.shape[1] >= least_pixels:
        return windows
    windows.close()
    return None
