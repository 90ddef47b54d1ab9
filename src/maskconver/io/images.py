"""Reading images of any usual kind as H×W×3 uint8, or with the channels and bits that are asked for."""

from __future__ import annotations

import io
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

from ..core.files import IMAGE_SUFFIXES, LFS_FIX, LFS_POINTER
from ..core.files import MAX_PIXELS as MAX_PIXELS
from ..errors import ImageError, one_line
from .pixels import ImageWarning as ImageWarning
from .pixels import check_white_level, to_bits, warn_about, with_channels, without_alpha
from .tiff import MAGIC as TIFF
from .tiff import read_bands, tiff_size

Result = TypeVar("Result")
BAND_PIXELS = 1 << 16
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")
SUFFIXES = IMAGE_SUFFIXES

_MAGIC = (b"\xff\xd8", b"\x89PNG", b"RIFF", *TIFF, b"BM", b"GIF8")
_EXIF_ORIENTATION = 0x0112
_BITS, _STRIPS, _SAMPLES, _PLANAR, _NUMBERS = 258, 273, 277, 284, 339  # tags of TIFF
_pillow_limit = threading.Lock()
for _library in ("PIL", "tifffile"):  # what they log about a damaged file is in our message, in one line
    logging.getLogger(_library).addHandler(logging.NullHandler())


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
    name = name or _name_of(source)
    check_white_level(white_level)
    kind = "this TIFF"
    try:
        with _opened(source, name) as image:
            _check_size(image.size, max_pixels, name)
            if _by_pillow(image, channels):
                return _decode(image, white_level, name, channels, bits)
    except ImageError as error:
        if error.kind != "tiff":
            raise
        kind = error.what
    values, turn = _beyond_pillow(source, name, kind, partial(read_bands, channels, max_pixels))
    if values.shape[2] != channels and (channels > 3 or channels == 2 or values.shape[2] > 4):
        raise _other_channels(values.shape[2], channels, name)
    values = without_alpha(values, channels)
    pixels = with_channels(to_bits(values, bits, white_level=white_level, name=name), channels)
    return np.require(_upright(pixels, turn), requirements=["C", "W", "O"])


def _by_pillow(image: Image.Image, channels: int) -> bool:
    return channels in (1, 3, 4) or image.format != "TIFF"


def _beyond_pillow(source: Any, name: str, kind: str, read: Callable[[BinaryIO, str], Result]) -> Result:
    """What a function of `tiff` gives of a file; its own errors, and those of tifffile in one line."""
    file = _open_file(source, name)
    file.seek(0)
    try:
        return read(file, name)
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # tifffile and its decoders raise almost anything
        what = f"{kind} cannot be read ({_reason(error)})"
        raise ImageError(what, where=name, fix="save it as grey or RGB of 8 or 16 bits") from None
    finally:
        if file is not source:
            file.close()


def _other_channels(bands: int, channels: int, name: str, mode: str = "") -> ImageError:
    has = f"has {bands} channel{'s' * (bands > 1)}{f' ({mode})' if mode else ''}"
    fix = f"give images of {channels} channels, or make the model with `in_channels={bands}`"
    return ImageError(f"{has}, the model takes {channels}", where=name, fix=fix)


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
    if file is not None and _is_deep(image) and not _frame(image):
        at = file.tell()
        file.seek(0)
        data = file.read()
        file.seek(at)
        return read_image(
            data, max_pixels=max_pixels, white_level=white_level, name=name, channels=channels, bits=bits
        )
    with _reported(name):
        return _decode(image, white_level, name, channels, bits)


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
    name = name or _name_of(source)
    check_white_level(white_level)
    try:
        with _opened(source, name) as image:
            _check_size(image.size, max_pixels, name)
            if image.format in ("JPEG", "MPO"):
                width, height = image.size  # before it is turned upright
                turned = _orientation(image) >= 5
                own = (width, height) if turned else (height, width)
                kept = least(own)
                image.draft(None, kept if turned else kept[::-1])
                return _decode(image, white_level, name, channels, bits), own
            if _by_pillow(image, channels):
                pixels = _decode(image, white_level, name, channels, bits)
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
    name = name or _name_of(source)
    try:
        with _opened(source, name) as image:
            width, height = image.size
            if image.format == "TIFF":  # some versions of Pillow have turned this size already
                width, height = _tags(image)[256], _tags(image)[257]
            turned = not _is_bare_png(image) and _orientation(image) >= 5
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
    name = name or _name_of(source)
    try:
        with _opened(source, name) as image:
            if image.format == "TIFF":
                return _tiff_form(_tags(image))
            deep = ";16" in _raw_mode(image) or image.mode.startswith(("I", "F"))
            return (1 if image.mode[0] in "1LIF" else 3), 16 if deep else 8
    except ImageError as error:
        if error.kind != "tiff":
            raise
    file = _open_file(source, name)
    file.seek(0)
    try:
        return _tiff_form(_first_tags(file))
    finally:
        if file is not source:
            file.close()


def _tiff_form(tags: Any) -> tuple[int, int]:
    bands, bits = tags.get(_SAMPLES, 1), max(tags.get(_BITS, (1,)))
    alpha = sum(kind in (1, 2) for kind in tags.get(338, ()))
    return (3 if tags.get(262) in (3, 5) else bands - alpha), 8 if bits <= 8 else 16


def _name_of(source: Any) -> str:
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    return "the image" if isinstance(source, bytes) else str(getattr(source, "name", "the image"))


def _open_file(source: Any, name: str) -> BinaryIO:
    if isinstance(source, bytes | bytearray | memoryview):
        return io.BytesIO(source)
    if not isinstance(source, str | os.PathLike):
        return source
    try:
        return Path(source).open("rb")
    except FileNotFoundError:
        raise ImageError("no such file", where=name) from None
    except IsADirectoryError:
        raise ImageError("is a folder, not an image", where=name) from None
    except (OSError, ValueError) as error:
        raise ImageError(f"cannot be opened ({_reason(error)})", where=name) from None


@contextmanager
def _opened(source: Any, name: str) -> Iterator[ImageFile.ImageFile]:
    """The image behind `source` with its header read; all that goes wrong becomes an `ImageError`."""
    file = _open_file(source, name)
    try:
        with _reported(name), _identify(file, name) as image:
            yield image
    finally:
        if file is not source:
            file.close()


@contextmanager
def _reported(name: str) -> Iterator[None]:
    """Whatever Pillow raises in the block as an `ImageError`."""
    try:
        yield
    except (ImageError, Warning):
        raise
    except MemoryError:
        raise ImageError("not enough memory for this image", where=name, fix="make it smaller") from None
    except Exception as error:  # Pillow's decoders raise almost anything on damaged data
        what = f"damaged or cut off ({_reason(error)})"
        raise ImageError(what, where=name, fix="copy or export it again") from None


def _identify(file: BinaryIO, name: str) -> ImageFile.ImageFile:
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
    what = f"{kind}, not one of JPEG, PNG, WebP, TIFF, BMP, GIF"
    return ImageError(what, where=name, fix="convert it or leave it out")


def _tiff_kind(file: BinaryIO) -> str:
    """`3 × 32-bit float` of a TIFF whose header is sound, else ""."""
    try:
        tags = _first_tags(file)
        bits = tags[_BITS][0]
        numbers = {3: " float"}.get(tags.get(_NUMBERS, (1,))[0], "")
        return f"{tags.get(_SAMPLES, 1)} × {bits}-bit{numbers}" if tags[256] and tags[257] else ""
    except Exception:  # damaged in any way
        return ""


def _first_tags(file: BinaryIO) -> Any:
    """The tags of a TIFF's first page."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    head = file.read(8)
    tags = ImageFileDirectory_v2(head + (file.read(8) if 43 in head[2:4] else b""))
    file.seek(tags.next)
    tags.load(file)
    return tags


def _reason(error: Exception) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else one_line(error)


def _check_size(size: tuple[int, int], max_pixels: int, name: str) -> None:
    width, height = size
    if width * height > max_pixels:
        raise ImageError(
            f"{width}×{height} is {width * height / 1e6:.0f} million pixels, more than the limit of "
            f"{max_pixels / 1e6:.0f} million",
            where=name,
            fix=f"make it smaller, or allow it with `max_pixels={width * height}`",
        )


def _decode(
    image: Image.Image, white_level: float | None, name: str, channels: int, bits: int
) -> NDArray[Any]:
    bands = 4 if image.mode == "P" and "transparency" in image.info else len(image.getbands())
    if channels not in (1, 3) and channels != bands:
        raise _other_channels(bands, channels, name, image.mode)
    animated = image.format in ("GIF", "WEBP", "TIFF", "PNG") and getattr(image, "is_animated", False)
    if animated and not _frame(image):
        warn_about(ImageWarning("has several frames; only the first is read", where=name), 3)
    deep = _deep_colour(image, white_level, name)
    if deep is None:
        image.load()
    turn = _orientation(image)  # after load(): Pillow turns some TIFFs itself and then clears the entry
    if deep is not None:
        deep = without_alpha(deep, channels)  # whose full opacity would pass for a bright pixel
        pixels = with_channels(to_bits(deep, bits, white_level=white_level, name=name), channels)
    elif image.mode.startswith("I") or image.mode == "F":
        values = _numbers(image)
        if (
            _tags(image).get(262) == 0 and values.dtype.str[1:] == "u2"
        ):  # 0 is white; Pillow turns 8 bits only
            level = np.uint16(min(white_level or 65535, 65535))
            values = level - np.minimum(values, level)
        pixels = to_bits(values, bits, white_level=white_level, name=name)
    else:
        pixels = to_bits(_bands(image, channels), bits)
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], channels, axis=2)
    pixels = _upright(pixels, turn)
    return np.require(pixels, requirements=["C", "W", "O"])


def _frame(image: Image.Image) -> int:
    return image.tell() if hasattr(image, "tell") else 0


def _numbers(image: Image.Image) -> NDArray[Any]:
    """The values of an image of one channel of more than 8 bits, in the type that the file has."""
    values = np.asarray(image)
    if image.format == "PNG" and values.dtype == np.int32:  # older versions of Pillow read 16 bits as 32
        values = values.astype(np.uint16)
    return values


# Pillow's modes for colour have 8 bits a channel: of deeper files it keeps the upper byte of each value. Read
# a second time with the bytes exchanged, it keeps the lower one.
_SWAPPED = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}


def _raw_mode(image: Image.Image) -> str:
    """How the values lie in the file, e.g. `RGB;16B`; "" once they are loaded."""
    tile = getattr(image, "tile", None)
    arguments = tile[0][3] if tile else ""
    return str(arguments[0] if isinstance(arguments, tuple) else arguments)


def _set_raw_mode(image: ImageFile.ImageFile, raw: str) -> None:
    for k, (decoder, box, offset, args) in enumerate(image.tile):
        changed = (raw, *args[1:]) if isinstance(args, tuple) else raw
        entry: Any = decoder, box, offset, changed
        kind = type(image.tile[k])  # a plain tuple in older versions of Pillow
        image.tile[k] = entry if kind is tuple else kind(*entry)


def _is_deep(image: Image.Image) -> bool:
    """Whether this is a file of 16-bit colour whose pixels are not loaded yet."""
    deep = ";16" in _raw_mode(image) and len(image.getbands()) > 1
    return deep or _is_planar(image)


def _deep_colour(image: Image.Image, white_level: float | None, name: str) -> NDArray[np.uint16] | None:
    """The values of a file of 16-bit colour, H×W×C; None of any other image."""
    if not _is_deep(image):
        return None
    assert isinstance(image, ImageFile.ImageFile) and image.fp is not None
    if _is_planar(image):
        return _planes(image, name)
    raw, file = _raw_mode(image), cast(BinaryIO, image.fp)
    if raw == "LA;16B":  # 32 bits a pixel, as four channels of 8 are
        _set_raw_mode(image, "RGBA")
        image._mode = "RGBA"
        parts = np.asarray(image).astype(np.uint16)
        return parts[..., ::2] << np.uint16(8) | parts[..., 1::2]
    if raw.partition(";")[0] not in ("RGB", "RGBA", "RGBX") or raw[-1] not in _SWAPPED:
        if white_level is not None:
            raise ImageError(
                f"16-bit values of the kind {raw} cannot be scaled by `white_level`",
                where=name,
                fix="save it as RGB",
            )
        return None
    high = np.asarray(image).astype(np.uint16)
    file.seek(0)
    with _identify(file, name) as again:
        _set_raw_mode(again, raw[:-1] + _SWAPPED[raw[-1]])
        return high << np.uint16(8) | np.asarray(again)


def _tags(image: Image.Image) -> Any:
    return getattr(image, "tag_v2", {})


def _is_planar(image: Image.Image) -> bool:
    """Whether this is a TIFF of 16-bit colour with each channel by itself, which Pillow reads wrongly."""
    if not getattr(image, "tile", None):
        return False
    tags = _tags(image)
    return tags.get(_PLANAR) == 2 and tags.get(_SAMPLES, 1) > 1 and tags.get(_BITS, (8,))[0] == 16


def _planes(image: ImageFile.ImageFile, name: str) -> NDArray[np.uint16]:
    """The values of a planar TIFF, H×W×C: the strips of all channels follow one another."""
    tags = _tags(image)
    if tags.get(259, 1) != 1 or _STRIPS not in tags or tags.get(262) != 2:
        what = "16-bit colour with each channel by itself, and compressed, tiled or not RGB"
        raise ImageError(what, where=name, kind="tiff")
    width, height, channels = tags[256], tags[257], tags[_SAMPLES]
    data = bytearray()
    assert image.fp is not None
    for start, length in zip(tags[_STRIPS], tags[279]):
        image.fp.seek(start)
        data += image.fp.read(length)
    if len(data) < 2 * width * height * channels:
        raise ImageError("cut off", where=name, fix="copy or export it again")
    order = ">u2" if tags.prefix == b"MM" else "<u2"
    values = np.frombuffer(data, order, width * height * channels).reshape(channels, height, width)
    image.tile = []  # what Pillow would read in its place
    return values.transpose(1, 2, 0).astype(np.uint16)


def _bands(image: Image.Image, channels: int) -> NDArray[np.uint8]:
    """H×W×C of a loaded image, a stripe of rows at a time: `np.asarray(image)` holds it twice more."""
    width, height = image.size
    pixels = np.empty((height, width, channels), np.uint8)
    rows = max(BAND_PIXELS // width, 1)
    for top in range(0, height, rows):
        stripe = image.crop((0, top, width, min(top + rows, height)))
        if channels in (1, 3):
            stripe.info.pop("transparency", None)  # Pillow would warn that the alpha of a palette gets lost
        if channels not in (1, 3):
            values = np.asarray(stripe.convert("RGBA") if stripe.mode == "P" else stripe)
        elif channels == 1 or stripe.mode in ("1", "L", "LA", "La"):
            values = np.asarray(_opaque(stripe).convert("L"))[..., None]
        else:
            values = np.asarray(_opaque(stripe).convert("RGB"))
        pixels[top : top + rows] = values
    return pixels


def _opaque(image: Image.Image) -> Image.Image:
    """An image in a mode that Pillow converts to RGB and grey without its alpha."""
    return image.convert("RGBA") if image.mode == "PA" else image


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1…8; 1 where there is none or the entry cannot be read."""
    try:
        value = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # damaged EXIF does not spoil the pixels
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _upright(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels
