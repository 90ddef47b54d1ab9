"""Panoptic PNGs: id maps stored as colours, `id = R + 256·G + 65536·B`, 0 = void (the COCO panoptic format).

Pillow needs about 2 ms to decode a 640×480 map. Most of it can be saved: id maps are flat areas, so the row
filters of PNG (RFC 2083, section 6) can be undone a whole row at a time, and the colours be read as 24-bit
numbers in place. What this short way does not cover (palettes, interlacing, the averaging filter) goes
through Pillow, with the same answer.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import DataError
from ..files import atomic_path

_zlib: ModuleType
try:  # optional: the same interface, several times faster
    from zlib_ng import zlib_ng as _zlib
except ModuleNotFoundError:
    _zlib = zlib

MAX_PIXELS = 179_000_000  # as for pictures: twice Pillow's limit, where it refuses instead of warning
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_NOT_PANOPTIC = "a panoptic PNG has three colour channels of 8 bits (id = R + 256·G + 65536·B)"


def read_panoptic_png(source: str | os.PathLike[str] | bytes, name: str = "") -> NDArray[np.int32]:
    """The id map that a panoptic PNG holds.

    RGB is the rule; RGBA is accepted (alpha dropped), a palette is resolved to its colours.

    Args:
        source: a path, or the file's bytes.
        name: what error messages call the file; by default the path.

    Returns:
        (H, W) int32 in 0…2²⁴−1, 0 = void.

    Raises:
        DataError: not a PNG, damaged, grey, 16 bits deep, or of more than 179 million pixels.
        OSError: the file cannot be opened.
    """
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    name = name or ("PNG" if isinstance(source, bytes) else os.fspath(source))
    header, idat = _chunks(data, name)
    width, height, depth, colour, interlaced = header
    if colour in (0, 4) or depth == 16:
        what = "one grey channel" if colour in (0, 4) else "16 bits a channel"
        raise DataError(f"{name}: not a panoptic PNG, it has {what}; {_NOT_PANOPTIC}")
    if width * height > MAX_PIXELS:
        raise DataError(f"{name}: {width}×{height} pixels are more than {MAX_PIXELS} and are refused")
    if colour in (2, 6) and depth == 8 and not interlaced:
        ids = _decode(idat, width, height, 3 if colour == 2 else 4, name)
        if ids is not None:
            return ids
    return _decode_with_pillow(data, name)


def write_panoptic_png(path: str | os.PathLike[str], ids: NDArray[Any]) -> None:
    """Write an id map as a panoptic PNG, whole or not at all.

    Args:
        path: the file to write; its folder is made.
        ids: (H, W) of any integer type, values 0…2²⁴−1.

    Raises:
        DataError: the array is not a map of such ids.
        OSError: the file cannot be written; nothing is left behind.
    """
    if ids.ndim != 2 or not ids.size or ids.dtype.kind not in "iu":
        raise DataError(f"{path}: an id map is H×W integers, not {ids.dtype} of shape {ids.shape}")
    if int(ids.min()) < 0 or int(ids.max()) >= 1 << 24:
        raise DataError(
            f"{path}: ids {ids.min()}…{ids.max()} do not fit a panoptic PNG, which holds 0…{(1 << 24) - 1}"
        )
    height, width = ids.shape
    ids = ids.astype(np.int32, copy=False)
    # No row filter: flat areas compress as well without, and are then read fastest.
    rows = np.zeros((height, 1 + 3 * width), np.uint8)
    for channel in range(3):
        rows[:, 1 + channel :: 3] = ids >> 8 * channel & 255
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [
        _SIGNATURE,
        _chunk(b"IHDR", header),
        _chunk(b"IDAT", _zlib.compress(rows, 6)),
        _chunk(b"IEND", b""),
    ]
    with atomic_path(path) as temporary:
        temporary.write_bytes(b"".join(parts))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _chunks(data: bytes, name: str) -> tuple[tuple[int, int, int, int, int], bytes]:
    """(width, height, bit depth, colour type, interlaced) and the joined image data, checksums verified."""
    if not data.startswith(_SIGNATURE):
        what = "is empty" if not data else "is not a PNG"
        if data.startswith(b"\xff\xd8"):
            what = "is a JPEG, which blurs ids"
        raise DataError(f"{name}: the file {what}; panoptic ids are stored as PNG")
    header: tuple[int, int, int, int, int] | None = None
    idat: list[bytes] = []
    start = len(_SIGNATURE)
    while start + 12 <= len(data):
        length = int.from_bytes(data[start : start + 4], "big")
        kind, body = data[start + 4 : start + 8], data[start + 8 : start + 8 + length]
        end = start + 12 + length
        if end > len(data):
            break
        checksum = int.from_bytes(data[end - 4 : end], "big")
        if kind in (b"IHDR", b"IDAT") and zlib.crc32(body, zlib.crc32(kind)) != checksum:
            raise DataError(
                f"{name}: the PNG is damaged (checksum of {kind.decode()}); copy or download it again"
            )
        if kind == b"IHDR" and length == 13:
            width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", body)
            if not width or not height:
                raise DataError(f"{name}: the PNG says it is {width}×{height} pixels")
            header = width, height, depth, colour, interlaced
        elif kind == b"IDAT":
            idat.append(body)
        elif kind == b"IEND" and header and idat:
            return header, b"".join(idat) if len(idat) > 1 else idat[0]
        start = end
    raise DataError(f"{name}: the PNG is cut off at byte {len(data)}; copy or download it again")


def _decode(idat: bytes, width: int, height: int, channels: int, name: str) -> NDArray[np.int32] | None:
    """The id map of 8-bit RGB(A) rows, or None where a row uses the averaging filter."""
    stride = 1 + channels * width
    try:  # each library has its own `error` class
        raw = _zlib.decompressobj().decompress(idat, height * stride)  # no more than that: a bomb stays small
    except Exception as error:
        raise DataError(f"{name}: the PNG is damaged ({error}); copy or download it again") from None
    if len(raw) != height * stride:
        raise DataError(
            f"{name}: the PNG ends after {len(raw) // stride} of {height} rows; copy or download it again"
        )
    buffer = np.empty(len(raw) + 1, np.uint8)  # one byte more, because the last colour is read as four bytes
    buffer[:-1] = np.frombuffer(raw, np.uint8)
    buffer[-1] = 0
    rows = buffer[:-1].reshape(height, stride)
    filters = rows[:, 0].copy()
    highest = int(filters.max())
    if highest > 4:
        raise DataError(f"{name}: the PNG is damaged (row filter {highest}); copy or download it again")
    if (filters == 3).any():
        return None
    _undo_filters(rows[:, 1:], filters, channels)
    ids = np.ndarray((height, width), "<i4", buffer, 1, (stride, channels)).astype(np.int32)
    ids &= 0xFFFFFF
    return ids


def _undo_filters(rows: NDArray[np.uint8], filters: NDArray[np.uint8], channels: int) -> None:
    """Undo none (0), sub (1), up (2) and Paeth (4) in place; a loop, because each row needs the one above."""
    if filters[0] == 2:
        filters[0] = 0  # nothing is above the first row
    above: NDArray[np.uint8] | None
    for y in np.flatnonzero(filters).tolist():
        row, above = rows[y], rows[y - 1] if y else None
        if filters[y] == 2 and above is not None:
            np.add(row, above, out=row)
            continue
        pixels = row.reshape(-1, channels)
        if filters[y] == 4 and above is not None:
            _paeth_to_sub(pixels, above.reshape(-1, channels))
        np.add.accumulate(pixels, axis=0, out=pixels)


def _paeth_to_sub(row: NDArray[np.uint8], above: NDArray[np.uint8]) -> None:
    """Rewrite a Paeth-filtered row as a sub-filtered one, in place.

    Where the row above does not change from one pixel to the next, Paeth predicts the left pixel, as "sub"
    does. So only the few pixels where it changes need the predictor, each a correction to the residual.
    """
    places = np.flatnonzero((above[1:] != above[:-1]).any(axis=1)) + 1
    row[0] += above[0]  # left and upper left of the first pixel count as 0, so the one above is predicted
    left = np.add.accumulate(row, axis=0)[places - 1].astype(np.int64)
    up, corner = above[places].astype(np.int64), above[places - 1].astype(np.int64)
    corrections = np.empty(left.shape, np.int64)
    for channel in range(row.shape[1]):
        shift = 0  # the sum of the corrections so far
        fixed = []
        for a, b, c in zip(left[:, channel].tolist(), up[:, channel].tolist(), corner[:, channel].tolist()):
            a = (a + shift) & 255
            to_a, to_b, to_c = abs(b - c), abs(a - c), abs(a + b - 2 * c)
            best = a if to_a <= to_b and to_a <= to_c else b if to_b <= to_c else c
            fixed.append(best - a)
            shift += best - a
        corrections[:, channel] = fixed
    row[places] += (corrections & 255).astype(np.uint8)


def _decode_with_pillow(data: bytes, name: str) -> NDArray[np.int32]:
    try:
        with Image.open(io.BytesIO(data)) as image:
            colours = np.asarray(image.convert("RGBA") if image.mode != "RGB" else image, np.int32)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{name}: the PNG is damaged ({error}); copy or download it again") from None
    return colours[..., 0] | colours[..., 1] << 8 | colours[..., 2] << 16
