"""Reading images of any usual kind as H×W×3 uint8, or with the channels and bits that are asked for."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any, BinaryIO, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from ..core.files import IMAGE_SUFFIXES
from ..core.files import MAX_PIXELS as MAX_PIXELS
from ..errors import ImageError
from .decoding import decode, frame, is_deep, orientation_of, other_channels, raw_mode, tags_of, upright
from .opening import BITS, SAMPLES, first_tags, name_of, open_file, opened, reason, reported
from .pixels import ImageWarning as ImageWarning
from .pixels import check_white_level, to_bits, with_channels, without_alpha
from .tiff import read_bands, require_sound, tiff_size

Result = TypeVar("Result")
SUFFIXES = IMAGE_SUFFIXES


def read_image(
    source: str | os.PathLike[str] | bytes | BinaryIO,
    *,
    max_pixels: int = MAX_PIXELS,
    white_level: float | None = None,
    name: str | None = None,
    channels: int = 3,
    bits: int = 8,
) -> NDArray[Any]:
    """Read an image upright, in RGB, 8 bits a channel, or as the model wants it.

    The content decides about the format, not the name. Grey is repeated to three channels, alpha is dropped
    (not composited), CMYK and palettes become RGB, EXIF rotation is applied, the first of several frames is
    taken. Values above 8 bits are scaled by their full range (65535), or by `white_level` where it is given.

    Args:
        source: a path, the bytes of a file, or a binary file at its beginning.
        max_pixels: images with more pixels are refused before memory is taken for them.
        white_level: the value shown as white in images of more than 8 bits, e.g. 4095 for 12 bits.
        name: what messages call the image; by default its path.
        channels: 3; or 1, grey (colours become their luma); or 4, the bands of an image that has four, as
            they are (RGBA, CMYK); or any other number, the channels of a TIFF that has as many.
        bits: 8; or 16, which keeps what deeper files hold. Files of 8 bits are then scaled to 0…65535.

    Returns:
        H×W×`channels` uint8, or uint16 for 16 bits, contiguous and writable.

    Raises:
        ImageError: no such file, not an image, damaged, cut off, more pixels than `max_pixels`, or another
            number of channels than is asked for.

    Warns:
        ImageWarning: several frames; a 16-bit image that looks black.
    """
    name = name or name_of(source)
    check_white_level(white_level)
    kind = "this TIFF"
    try:
        with opened(source, name) as image:
            _check_size(image.size, max_pixels, name)
            if _by_pillow(image, channels):
                return decode(image, white_level, name, channels=channels, bits=bits)
    except ImageError as error:
        if error.kind != "tiff":
            raise
        kind = error.what
    values, turn = _beyond_pillow(source, name, kind, partial(read_bands, channels, max_pixels))
    if values.shape[2] != channels and (channels > 3 or channels == 2 or values.shape[2] > 4):
        raise other_channels(values.shape[2], channels, name)
    values = without_alpha(values, channels)
    pixels = with_channels(to_bits(values, bits, white_level=white_level, name=name), channels)
    return np.require(upright(pixels, turn), requirements=["C", "W", "O"])


def _by_pillow(image: Image.Image, channels: int) -> bool:
    return channels in (1, 3, 4) or image.format != "TIFF"


def _beyond_pillow(source: Any, name: str, kind: str, read: Callable[[BinaryIO, str], Result]) -> Result:
    """What a function of `tiff` gives of a file; its own errors, and those of tifffile in one line."""
    file = open_file(source, name)
    file.seek(0)
    try:
        require_sound(file, name)
        return read(file, name)
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # tifffile and its decoders raise almost anything
        what = f"{kind} cannot be read ({reason(error)})"
        raise ImageError(what, where=name, fix="save it as grey or RGB of 8 or 16 bits") from None
    finally:
        if file is not source:
            file.close()


def from_pillow(
    image: Image.Image,
    *,
    max_pixels: int = MAX_PIXELS,
    white_level: float | None = None,
    channels: int = 3,
    bits: int = 8,
) -> NDArray[Any]:
    """A Pillow image as `read_image` reads its file: the same pixels, the same errors and warnings.

    Pillow gives colours of 16 bits as 8. An image of such a file is therefore decoded here as long as nobody
    has loaded its pixels; afterwards `white_level` cannot reach them any more. Of several frames the image's
    current one is taken.

    Args:
        image: of any mode; it is loaded, but not changed.
        max_pixels, white_level, channels, bits: as in `read_image`.

    Raises, warns:
        As `read_image`.
    """
    check_white_level(white_level)
    name = os.fspath(getattr(image, "filename", "") or "") or "the image"
    _check_size(image.size, max_pixels, name)
    file = getattr(image, "fp", None)
    if file is not None and is_deep(image) and not frame(image):
        at = file.tell()
        file.seek(0)
        data = file.read()
        file.seek(at)
        return read_image(
            data, max_pixels=max_pixels, white_level=white_level, name=name, channels=channels, bits=bits
        )
    with reported(name):
        return decode(image, white_level, name, channels=channels, bits=bits)


def read_reduced(
    source: str | os.PathLike[str] | bytes | BinaryIO,
    least: Callable[[tuple[int, int]], tuple[int, int]],
    *,
    max_pixels: int = MAX_PIXELS,
    white_level: float | None = None,
    name: str | None = None,
    channels: int = 3,
    bits: int = 8,
) -> tuple[NDArray[Any], tuple[int, int]]:
    """Read an image; a JPEG at a half, a quarter or an eighth of its size where that is large enough.

    The JPEG decoder then calculates only that many pixels, each the mean of those it stands for (the last row
    and column of fewer). All other files are read as `read_image` reads them.

    Args:
        source, max_pixels, white_level, name, channels, bits: as for `read_image`.
        least: from the image's (height, width) to the (height, width) it must keep.

    Returns:
        h×w×`channels` uint8 (uint16 for 16 bits), and the image's own (height, width).

    Raises, warns:
        As `read_image`.
    """
    name = name or name_of(source)
    check_white_level(white_level)
    try:
        with opened(source, name) as image:
            _check_size(image.size, max_pixels, name)
            if image.format in ("JPEG", "MPO"):
                width, height = image.size  # before it is turned upright
                turned = orientation_of(image) >= 5
                own = (width, height) if turned else (height, width)
                kept = least(own)
                image.draft(None, kept if turned else kept[::-1])
                return decode(image, white_level, name, channels=channels, bits=bits), own
            if _by_pillow(image, channels):
                pixels = decode(image, white_level, name, channels=channels, bits=bits)
                return pixels, (pixels.shape[0], pixels.shape[1])
    except ImageError as error:
        if error.kind != "tiff":
            raise
    if not isinstance(source, str | os.PathLike | bytes):
        source.seek(0)
    pixels = read_image(
        source, max_pixels=max_pixels, white_level=white_level, name=name, channels=channels, bits=bits
    )
    return pixels, (pixels.shape[0], pixels.shape[1])


def image_size(
    source: str | os.PathLike[str] | bytes | BinaryIO, *, name: str | None = None
) -> tuple[int, int]:
    """Height and width of an image as it will be read (EXIF rotation applied), from its header alone.

    Raises:
        ImageError: no such file or not an image. Damage behind the header is not seen.
    """
    name = name or name_of(source)
    try:
        with opened(source, name) as image:
            width, height = image.size
            if image.format == "TIFF":  # some versions of Pillow have turned this size already
                width, height = tags_of(image)[256], tags_of(image)[257]
            turned = not _is_bare_png(image) and orientation_of(image) >= 5
            return (width, height) if turned else (height, width)
    except ImageError as error:
        if error.kind != "tiff":
            raise
        kind = error.what
    return _beyond_pillow(source, name, kind, tiff_size)


def _is_bare_png(image: ImageFile.ImageFile) -> bool:
    """Whether a PNG surely has no EXIF: looking for it, Pillow would decode all pixels first."""
    if image.format != "PNG" or "exif" in image.info or "Raw profile type exif" in image.info:
        return False
    file = cast(BinaryIO, image.fp)
    at, end = file.tell(), file.seek(0, os.SEEK_END)
    place, found = 8, False
    while place + 8 <= end and not found:
        file.seek(place)
        head = file.read(8)
        found = head[4:] in (b"eXIf", b"zTXt", b"iTXt", b"tEXt")
        place += 12 + int.from_bytes(head[:4])
    file.seek(at)
    width, height = image.size
    return not found or width * height > MAX_PIXELS


def image_form(
    source: str | os.PathLike[str] | bytes | BinaryIO, *, name: str | None = None
) -> tuple[int, int]:
    """Channels (alpha and palettes left out: 1, 3, or those of a TIFF) and bits of an image, from its header.

    Raises:
        ImageError: as `image_size`.
    """
    name = name or name_of(source)
    try:
        with opened(source, name) as image:
            if image.format == "TIFF":
                return _tiff_form(tags_of(image))
            deep = ";16" in raw_mode(image) or image.mode.startswith(("I", "F"))
            return (1 if image.mode[0] in "1LIF" else 3), 16 if deep else 8
    except ImageError as error:
        if error.kind != "tiff":
            raise
        kind = error.what
    return _beyond_pillow(source, name, kind, lambda file, _: _tiff_form(first_tags(file)))


def _tiff_form(tags: Any) -> tuple[int, int]:
    bands, bits = tags.get(SAMPLES, 1), max(tags.get(BITS, (1,)))
    alpha = sum(kind in (1, 2) for kind in tags.get(338, ()))
    return (3 if tags.get(262) in (3, 5) else bands - alpha), 8 if bits <= 8 else 16


def _check_size(size: tuple[int, int], max_pixels: int, name: str) -> None:
    width, height = size
    if width * height > max_pixels:
        raise ImageError(
            f"{width}×{height} is {width * height / 1e6:.0f} million pixels, more than the limit of "
            f"{max_pixels / 1e6:.0f} million",
            where=name,
            fix=f"make it smaller, or allow it with `max_pixels={width * height}`",
        )
