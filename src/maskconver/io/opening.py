"""Files that are opened as images, and what is wrong with those that are none, in one line."""

from __future__ import annotations

import io
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image, ImageFile, UnidentifiedImageError

from ..core.files import LFS_FIX, LFS_POINTER
from ..errors import ImageError, one_line
from .tiff import MAGIC as TIFF

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")
BITS, SAMPLES, NUMBERS = 258, 277, 339  # tags of TIFF

_MAGIC = (b"\xff\xd8", b"\x89PNG", b"RIFF", *TIFF, b"BM", b"GIF8")
_OTHERS = (
    (4, b"ftyphe", "a HEIC image"),
    (4, b"ftypmif", "a HEIC image"),
    (4, b"ftypavif", "an AVIF image"),
    (4, b"ftyp", "a video"),
    (4, b"jP  ", "a JPEG 2000 image"),
    (0, b"PK\x03\x04", "a zip"),
    (0, b"%PDF", "a PDF"),
    (0, b"8BPS", "a Photoshop file"),
)
_pillow_limit = threading.Lock()
for _library in ("PIL", "tifffile"):  # what they log about a damaged file is in our message, in one line
    logging.getLogger(_library).addHandler(logging.NullHandler())


def name_of(source: Any) -> str:
    """What messages call a path, bytes or a file."""
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    return "the image" if isinstance(source, bytes) else str(getattr(source, "name", "the image"))


def open_file(source: Any, name: str) -> BinaryIO:
    """A path or bytes as a binary file; an open file is given back as it is.

    Raises:
        ImageError: no such file, a folder, or a file that cannot be opened.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        return io.BytesIO(source)
    if not isinstance(source, str | os.PathLike):
        return source
    try:
        if Path(source).is_fifo():  # opening it would wait for ever
            raise ImageError("is a pipe, not a file", where=name)
        return Path(source).open("rb")
    except FileNotFoundError:
        raise ImageError("no such file", where=name) from None
    except IsADirectoryError:
        raise ImageError("is a folder, not an image", where=name) from None
    except (OSError, ValueError) as error:
        raise ImageError(f"cannot be opened ({reason(error)})", where=name) from None


@contextmanager
def opened(source: Any, name: str) -> Iterator[ImageFile.ImageFile]:
    """The image behind `source` with its header read; all that goes wrong becomes an `ImageError`."""
    file = open_file(source, name)
    try:
        with reported(name), identify(file, name) as image:
            yield image
    finally:
        if file is not source:
            file.close()


@contextmanager
def reported(name: str) -> Iterator[None]:
    """Whatever Pillow raises in the block as an `ImageError`."""
    try:
        yield
    except (ImageError, Warning):
        raise
    except MemoryError:
        raise ImageError("not enough memory for this image", where=name, fix="make it smaller") from None
    except Exception as error:  # Pillow's decoders raise almost anything on damaged data
        what = f"damaged or cut off ({reason(error)})"
        raise ImageError(what, where=name, fix="copy or export it again") from None


def identify(file: BinaryIO, name: str) -> ImageFile.ImageFile:
    """Reads the header. Pillow's size limit is one for the whole process; `_check_size` stands in for it."""
    start = file.tell()
    head = file.read(32)
    file.seek(start)
    if not head:
        raise ImageError("the file is empty (0 bytes)", where=name, fix="copy it again")
    with _pillow_limit:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            image = Image.open(file, formats=FORMATS)
        except UnidentifiedImageError:
            file.seek(start)
            raise _unidentified(file, head, name) from None
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    assert isinstance(image, ImageFile.ImageFile)
    return image


def _unidentified(file: BinaryIO, head: bytes, name: str) -> ImageError:
    """Why a file is none that Pillow opens."""
    if head.startswith(TIFF) and (kind := _tiff_kind(file)):
        return ImageError(f"a TIFF of {kind}", where=name, kind="tiff")
    if head.startswith(_MAGIC):
        return ImageError("its header is damaged or cut off", where=name, fix="copy or export it again")
    if head.startswith(LFS_POINTER):
        return ImageError("not an image", where=name, fix=LFS_FIX)
    kind = "a text or web page" if head.lstrip()[:1] == b"<" else "not an image"
    kind = next((named for at, start, named in _OTHERS if head[at:].startswith(start)), kind)
    what = f"{kind}, not one of JPEG, PNG, WebP, TIFF, BMP, GIF"
    return ImageError(what, where=name, fix="convert it or leave it out")


def _tiff_kind(file: BinaryIO) -> str:
    """`3 × 32-bit float` of a TIFF whose header is sound, else ""."""
    try:
        tags = first_tags(file)
        bits = tags[BITS][0]
        numbers = {3: " float"}.get(tags.get(NUMBERS, (1,))[0], "")
        return f"{tags.get(SAMPLES, 1)} × {bits}-bit{numbers}" if tags[256] and tags[257] else ""
    except Exception:  # damaged in any way
        return ""


def first_tags(file: BinaryIO) -> Any:
    """The tags of a TIFF's first page."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    head = file.read(8)
    tags = ImageFileDirectory_v2(head + (file.read(8) if 43 in head[2:4] else b""))
    file.seek(tags.next)
    tags.load(file)
    return tags


def reason(error: Exception) -> str:
    """An exception in a few words, without the file's name."""
    return error.strerror if isinstance(error, OSError) and error.strerror else one_line(error)
