"""TIFF files: whether all of one is there, and those that Pillow cannot read (extra `tiff`)."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError, one_line

MAGIC = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
MOST_PAGES, MOST_TAGS = 1000, 4096  # that are looked at; more than any page has
_COMPRESSION, _FILL_ORDER = 259, 266
_OFFSETS, _SIZES = (324, 273), (325, 279)  # of tiles, of strips
_OWN_RULES = (65420, 34412)  # Hamamatsu NDPI and Zeiss LSM count bytes otherwise
_TAGS = {_COMPRESSION, _FILL_ORDER, *_OFFSETS, *_SIZES, *_OWN_RULES}
_NUMBERS = {1: "u1", 3: "u2", 4: "u4", 13: "u4", 16: "u8", 18: "u8"}
JPEG, _DEFLATE = (7, 33003, 33005, 34712), (8, 32946)


def require_sound(file: BinaryIO, name: str, *, page: int | None = 0) -> None:
    """Refuses a TIFF of which a part is missing, also where a decoder would fill it without a word.

    Every page must lie in the file. Of the page that is read, JPEG parts must end as such, and deflated ones
    fit their checksum.

    Args:
        file: of any position, which it keeps.
        name: what messages call it.
        page: the one that is read as a whole, from 0; None if parts are checked as they are read.

    Raises:
        ImageError: with the number of the page.
    """
    at, number = file.tell(), -1
    try:
        size = file.seek(0, os.SEEK_END)
        for number, tags in enumerate(_pages(file, size)):
            if tags.keys() & set(_OWN_RULES):
                return
            nothing = np.zeros(0, np.int64)
            offsets = next((tags[tag] for tag in _OFFSETS if tag in tags), nothing)
            sizes = next((tags[tag] for tag in _SIZES if tag in tags), nothing)
            if not len(sizes) or len(offsets) != len(sizes):
                continue
            kind = int(tags[_COMPRESSION][0]) if _COMPRESSION in tags else 1
            outside = (sizes > 0) & ((offsets <= 0) | (offsets + sizes > size))
            if kind == 1:  # some writers state any size of values that are not compressed
                outside &= sizes <= size
            if outside.any():
                raise damaged(
                    "it lies outside the file", name, number, part=int(outside.argmax()), parts=len(sizes)
                )
            plain = _FILL_ORDER not in tags or tags[_FILL_ORDER][0] == 1
            if number == page and (kind in JPEG or (kind in _DEFLATE and plain)):
                for i, (offset, length) in enumerate(zip(offsets.tolist(), sizes.tolist())):
                    file.seek(offset)
                    if length and (why := _fault(file.read(length), kind)):
                        raise damaged(why, name, number, part=i, parts=len(sizes))
    except _LoopError:
        pass  # every page was seen
    except (ValueError, KeyError, OverflowError):
        raise damaged("its directory cannot be read", name, number + 1) from None
    finally:
        file.seek(at)


def is_whole(data: bytes) -> bool:
    """Whether a JPEG or JPEG 2000 part has its end; decoders make up what is missing."""
    return b"\xff\xd9" in data[-4096:]


def _fault(data: bytes, kind: int) -> str:
    """What is wrong with a compressed part; "" if nothing is known to be."""
    if kind in JPEG:
        return "" if is_whole(data) else "it ends too early"
    decoder = zlib.decompressobj()
    try:
        while data:
            decoder.decompress(data, 1 << 20)
            data = decoder.unconsumed_tail
        decoder.flush()
    except zlib.error as error:
        return one_line(error)
    return "" if decoder.eof else "it ends too early"


def damaged(
    what: str, name: str, page: int | None = None, *, part: int | None = None, parts: int = 0
) -> ImageError:
    """The error about a page, and a part of it; both from 0."""
    places = [f"part {part + 1} of {parts}"] if part is not None else []
    places += [f"page {page + 1}"] if page is not None else []
    where = f" in {' of '.join(places)}" if places else ""
    return ImageError(f"damaged or cut off{where} ({what})", where=name, fix="copy or export it again")


class _LoopError(Exception):
    """The page after the last one is one of those before."""


def _pages(file: BinaryIO, size: int) -> Iterator[dict[int, NDArray[np.int64]]]:
    """The numbers of each page that say where its parts lie.

    Raises:
        ValueError, KeyError, OverflowError: a directory that is damaged or outside the file.
        _LoopError: the pages never end.
    """
    file.seek(0)
    head = file.read(16)
    order, big = "<" if head[:2] == b"II" else ">", 43 in head[2:4]
    many, wide = ("u8", "u8") if big else ("u2", "u4")
    fields = [
        ("tag", order + "u2"),
        ("kind", order + "u2"),
        ("count", order + wide),
        ("value", f"V{wide[1]}"),
    ]

    def numbers(data: bytes, kind: str, count: int = 1) -> NDArray[np.int64]:
        return np.frombuffer(data, order + kind, count).astype(np.int64)

    at, seen = int(numbers(head[8:] if big else head[4:], wide)[0]), set[int]()
    while at and at not in seen and len(seen) < MOST_PAGES:
        seen.add(at)
        file.seek(at)
        count = int(numbers(file.read(int(many[1])), many)[0])
        if not 0 < count <= MOST_TAGS:
            raise ValueError
        rows = np.frombuffer(file.read(np.dtype(fields).itemsize * count), fields, count)
        end = file.read(int(wide[1]))
        tags = {}
        for tag, code, length, value in rows.tolist():
            if tag not in _TAGS:
                continue
            kind = _NUMBERS.get(code, "u1")
            if length * int(kind[1]) > len(value):
                file.seek(int(numbers(value, wide)[0]))
                value = file.read(min(length * int(kind[1]), size))
            tags[tag] = numbers(value, kind, length)
        yield tags
        at = int(numbers(end, wide)[0]) if end else 0
    if at in seen:
        raise _LoopError


def _never_ends(file: BinaryIO) -> bool:
    """Whether the pages form a loop; tifffile would read 65,536 of them."""
    at = file.tell()
    try:
        for _ in _pages(file, file.seek(0, os.SEEK_END)):
            pass
    except _LoopError:
        return True
    finally:
        file.seek(at)
    return False


def read_bands(channels: int, max_pixels: int, file: BinaryIO, name: str) -> tuple[NDArray[Any], int]:
    """All channels of a TIFF, in the type that the file has.

    Channels may lie beside one another, in planes, or in pages of one size; other pages are not read.

    Args:
        channels: how many are wanted; as many pages are taken for channels.
        max_pixels: files with more are refused.
        file: at its beginning.
        name: what messages call it.

    Returns:
        H×W×C values, and the orientation 1…8 that the file states.

    Raises:
        ImageError: tifffile is not installed, too many pixels, or not one image.
    """
    alone = _never_ends(file)
    with _opened(file, name) as tiff:
        page = tiff.pages[0]
        series = page if alone else tiff.series[0]
        height, width = page.imagelength, page.imagewidth
        if height * width > max_pixels:
            what = f"{width}×{height} pixels are more than the limit of {max_pixels}"
            fix = f"make it smaller, or allow it with `max_pixels={width * height}`"
            raise ImageError(what, where=name, fix=fix)
        if series.ndim > page.ndim and channels not in series.shape:
            series = page  # a stack, of which the first is taken
        try:
            values, axes = series.asarray(), series.axes
        except MemoryError:
            raise
        except Exception as error:  # tifffile and its decoders raise almost anything
            raise damaged(
                one_line(error), name, _broken([page] if series is page else series.pages)
            ) from None
        turn = page.tags.valueof(274, 1)
    kept = [i for i, n in enumerate(values.shape) if n > 1 or axes[i] in "YX"]
    values, axes = values.reshape([values.shape[i] for i in kept]), "".join(axes[i] for i in kept)
    if sorted(axes[i] for i in range(len(axes)) if axes[i] in "YX") != ["X", "Y"] or len(axes) > 3:
        shape = "×".join(map(str, values.shape))
        raise ImageError(f"holds {shape} values ({axes}), not one image", where=name, fix="save one plane")
    other = [i for i, axis in enumerate(axes) if axis not in "YX"]
    values = values.transpose(axes.index("Y"), axes.index("X"), *other)
    return values.reshape(*values.shape[:2], -1), turn if turn in range(1, 9) else 1


def _broken(pages: Any) -> int | None:
    """The index of the first page that cannot be decoded."""
    for page in filter(None, pages):
        try:
            page.asarray()
        except Exception:
            return int(page.index)
    return None


def tiff_size(file: BinaryIO, name: str) -> tuple[int, int]:
    """Height and width, upright."""
    with _opened(file, name) as tiff:
        page = tiff.pages[0]
        size = page.imagelength, page.imagewidth
        return size[::-1] if page.tags.valueof(274, 1) in (5, 6, 7, 8) else size


def _opened(file: BinaryIO, name: str) -> Any:
    try:
        from tifffile import TiffFile
    except ModuleNotFoundError:
        what = "this kind of TIFF needs the package tifffile"
        raise ImageError(what, where=name, fix='pip install "maskconver[tiff]"') from None
    return TiffFile(file)
