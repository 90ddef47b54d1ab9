"""Panoptic PNGs: id maps stored as colours, `id = R + 256·G + 65536·B`, 0 = void (the COCO panoptic format).

Decoding PNGs is most of the work of evaluating files. Pillow needs about 2 ms for a map of 640×480; kornia-rs
(extra `scale`), used where it is installed, about a third.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import DataError, one_line
from .files import LFS_FIX, LFS_POINTER, MAX_PIXELS, atomic_path

_rust: ModuleType | None
try:
    _rust = import_module("kornia_rs").io
except (ImportError, AttributeError):  # optional
    _rust = None

BAND_PIXELS = 1 << 15  # a map is written a band of rows of about this many pixels at a time
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _RGB, _GREY_ALPHA = 0, 2, 4  # colour types
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
    width, height, depth, colour = _header(data, name, rust=_rust is not None)
    if colour in (_GREY, _GREY_ALPHA) or depth == 16:
        what = "16 bits a channel" if depth == 16 else "one grey channel"
        raise DataError(f"not a panoptic PNG, it has {what}", where=name, fix=_NOT_PANOPTIC)
    if width * height > MAX_PIXELS:
        raise DataError(f"{width}×{height} pixels are more than {MAX_PIXELS} and are refused", where=name)
    try:
        fast = _rust is not None and colour == _RGB
        ids = _decode_fast(data, (height, width)) if fast else _decode(data)
    except (RuntimeError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        what = f"the PNG is damaged ({one_line(error)})"
        raise DataError(what, where=name, fix="copy or download it again") from None
    return ids


def write_panoptic_png(path: str | os.PathLike[str], ids: NDArray[Any]) -> None:
    """Write an id map as a panoptic PNG, whole or not at all.

    Args:
        path: the file to write; its folder is made.
        ids: (H, W) of any integer type, values 0…2²⁴−1.

    Raises:
        DataError: the array is not a map of such ids.
        OSError: the file cannot be written; nothing is left behind.
    """
    data = encode_panoptic_png(ids, name=os.fspath(path))
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def encode_panoptic_png(ids: NDArray[Any], *, name: str = "the id map") -> bytes:
    """The bytes of a panoptic PNG.

    Args:
        ids: (H, W) of any integer type, values 0…2²⁴−1.
        name: what messages call the map.

    Raises:
        DataError: the array is not a map of such ids.
    """
    if ids.ndim != 2 or not ids.size or ids.dtype.kind not in "iu":
        raise DataError(f"{name}: an id map is H×W integers, not {ids.dtype} of shape {ids.shape}")
    if int(ids.min()) < 0 or int(ids.max()) >= 1 << 24:
        raise DataError(f"{name}: ids {ids.min()}…{ids.max()} do not fit a panoptic PNG (0…{(1 << 24) - 1})")
    height, width = ids.shape
    header = struct.pack(">IIBBBBB", width, height, 8, _RGB, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", _compressed(ids)), (b"IEND", b""))
    parts = [_SIGNATURE]
    for kind, body in chunks:
        parts += [struct.pack(">I", len(body)), kind, body, struct.pack(">I", zlib.crc32(kind + body))]
    return b"".join(parts)


def _compressed(ids: NDArray[Any]) -> bytes:
    """The pixel data of a PNG, made a band of rows at a time, so that a large map needs little memory.

    No row filter: flat areas compress as well without, and are then written and read fastest.
    """
    height, width = ids.shape
    band = max(BAND_PIXELS // width, 1)
    rows = np.zeros((band, 1 + 3 * width), np.uint8)
    stream = zlib.compressobj(4)
    parts = []
    for top in range(0, height, band):
        part = ids[top : top + band].astype(np.int32, copy=False)
        here = rows[: len(part)]
        for channel in range(3):
            here[:, 1 + channel :: 3] = part >> 8 * channel & 255
        parts.append(stream.compress(here.data))
    return b"".join([*parts, stream.flush()])


def _header(data: bytes, name: str, rust: bool) -> tuple[int, int, int, int]:
    """Width, height, bit depth and colour type of a PNG whose chunks are all there and intact.

    With `rust` the checksums of RGB data are left to the decoder, which checks them itself.
    """
    if not data.startswith(_SIGNATURE):
        what = "is empty" if not data else "is not a PNG"
        if data.startswith(b"\xff\xd8"):
            what = "is a JPEG, which blurs ids"
        fix = LFS_FIX if data.startswith(LFS_POINTER) else "panoptic ids are stored as PNG"
        raise DataError(f"the file {what}", where=name, fix=fix)
    header: tuple[int, int, int, int] | None = None
    start = len(_SIGNATURE)
    while start + 12 <= len(data):
        length = int.from_bytes(data[start : start + 4], "big")
        kind, end = data[start + 4 : start + 8], start + 12 + length
        if end > len(data):
            break
        if kind == b"IEND" and header:
            return header
        checksum = int.from_bytes(data[end - 4 : end], "big")
        trusted = rust and kind == b"IDAT" and header is not None and header[3] == _RGB
        if kind in (b"IHDR", b"IDAT") and not trusted and zlib.crc32(data[start + 4 : end - 4]) != checksum:
            what = f"the PNG is damaged (checksum of {kind.decode()})"
            raise DataError(what, where=name, fix="copy or download it again")
        if kind == b"IHDR" and length == 13:
            width, height, depth, colour = struct.unpack_from(">IIBB", data, start + 8)
            if not width or not height:
                raise DataError(f"the PNG says it is {width}×{height} pixels", where=name)
            header = width, height, depth, colour
        start = end
    what = f"the PNG is cut off at byte {len(data)}"
    raise DataError(what, where=name, fix="copy or download it again")


def _decode_fast(data: bytes, size: tuple[int, int]) -> NDArray[np.int32]:
    """RGB of 8 bits, through kornia-rs."""
    assert _rust is not None
    try:
        colours: NDArray[np.uint8] = np.ascontiguousarray(_rust.decode_image_png_u8(data, size, "rgb"))
    except Exception as error:  # its errors have no common class
        raise OSError(str(error)) from None
    height, width = size
    ids = np.empty(height * width, np.int32)
    # Each colour is read as the first three of four bytes, in place; the last one has no fourth.
    ids[:-1] = np.ndarray(height * width - 1, "<i4", colours, strides=(3,))
    ids[-1] = int.from_bytes(colours[-1, -1].tobytes(), "little")
    ids &= 0xFFFFFF
    return ids.reshape(height, width)


def _decode(data: bytes) -> NDArray[np.int32]:
    """Any colour type, through Pillow."""
    with Image.open(io.BytesIO(data)) as image:
        size = image.height, image.width
        # Pillow keeps RGB as four bytes a pixel; asking for all four spares it repacking them.
        raw = image.tobytes("raw", "RGBX") if image.mode == "RGB" else image.convert("RGBA").tobytes()
    ids = np.frombuffer(raw, "<i4").reshape(size) & 0xFFFFFF
    return ids.astype(np.int32, copy=False)
