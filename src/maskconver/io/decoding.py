"""From an image that Pillow has opened to an array: bits, channels, alpha, deep colours, EXIF rotation."""

from __future__ import annotations

import sys
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from ..errors import ImageError
from .opening import BITS, SAMPLES, identify, reason
from .pixels import ImageWarning, to_bits, warn_about, with_channels, without_alpha
from .tiff import damaged, require_sound

BAND_PIXELS = 1 << 16

_EXIF_ORIENTATION = 0x0112
_STRIPS, _PLANAR = 273, 284  # tags of TIFF


def decode(
    image: Image.Image, white_level: float | None, name: str, *, channels: int, bits: int
) -> NDArray[Any]:
    """The pixels of an opened image, upright; it gets loaded.

    Args:
        image: its current frame is taken.
        white_level, name, channels, bits: as in `read_image`.

    Returns:
        H×W×`channels` uint8, or uint16 for 16 bits, contiguous and writable.

    Raises:
        ImageError: another number of channels, or a kind of 16-bit colour that cannot be read.

    Warns:
        ImageWarning: several frames; a 16-bit image that looks black.
    """
    bands = 4 if image.mode == "P" and "transparency" in image.info else len(image.getbands())
    if channels not in (1, 3) and channels != bands:
        raise other_channels(bands, channels, name, mode=image.mode)
    animated = image.format in ("GIF", "WEBP", "TIFF", "PNG") and getattr(image, "is_animated", False)
    if animated and not frame(image):
        warn_about(ImageWarning("has several frames; only the first is read", where=name), 3)
    if image.format == "TIFF" and (file := getattr(image, "fp", None)) and getattr(image, "tile", None):
        require_sound(file, name, page=frame(image))
    deep = _deep_colour(image, white_level, name)
    if deep is None:
        try:
            image.load()
        except (OSError, ValueError) as error:
            raise damaged(reason(error), name, frame(image) if image.format == "TIFF" else None) from None
    turn = orientation_of(image)  # after load(): Pillow turns some TIFFs itself and then clears the entry
    if deep is not None:
        deep = without_alpha(deep, channels)  # whose full opacity would pass for a bright pixel
        pixels = with_channels(to_bits(deep, bits, white_level=white_level, name=name), channels)
    elif image.mode.startswith("I") or image.mode == "F":
        values = _numbers(image)
        if (
            tags_of(image).get(262) == 0 and values.dtype.str[1:] == "u2"
        ):  # 0 is white; Pillow turns 8 bits only
            level = np.uint16(min(white_level or 65535, 65535))
            values = level - np.minimum(values, level)
        pixels = to_bits(values, bits, white_level=white_level, name=name)
    else:
        pixels = to_bits(_bands(image, channels), bits)
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], channels, axis=2)
    pixels = upright(pixels, turn)
    return np.require(pixels, requirements=["C", "W", "O"])


def other_channels(bands: int, channels: int, name: str, *, mode: str = "") -> ImageError:
    """The error that an image has another number of channels than the model takes."""
    has = f"has {bands} channel{'s' * (bands > 1)}{f' ({mode})' if mode else ''}"
    fix = f"give images of {channels} channels, or make the model with `in_channels={bands}`"
    return ImageError(f"{has}, the model takes {channels}", where=name, fix=fix)


def frame(image: Image.Image) -> int:
    """The number of the frame that is read now; 0 for images of one frame."""
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


def raw_mode(image: Image.Image) -> str:
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


def is_deep(image: Image.Image) -> bool:
    """Whether this is a file of 16-bit colour whose pixels are not loaded yet."""
    deep = ";16" in raw_mode(image) and len(image.getbands()) > 1
    return deep or _is_planar(image)


def _deep_colour(image: Image.Image, white_level: float | None, name: str) -> NDArray[np.uint16] | None:
    """The values of a file of 16-bit colour, H×W×C; None of any other image."""
    if not is_deep(image):
        return None
    assert isinstance(image, ImageFile.ImageFile) and image.fp is not None
    if _is_planar(image):
        return _planes(image, name)
    raw, file = raw_mode(image), cast(BinaryIO, image.fp)
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
    with identify(file, name) as again:
        _set_raw_mode(again, raw[:-1] + _SWAPPED[raw[-1]])
        return high << np.uint16(8) | np.asarray(again)


def tags_of(image: Image.Image) -> Any:
    """The tags of a TIFF by number; none of another image."""
    return getattr(image, "tag_v2", {})


def _is_planar(image: Image.Image) -> bool:
    """Whether this is a TIFF of 16-bit colour with each channel by itself, which Pillow reads wrongly."""
    if not getattr(image, "tile", None):
        return False
    tags = tags_of(image)
    return tags.get(_PLANAR) == 2 and tags.get(SAMPLES, 1) > 1 and tags.get(BITS, (8,))[0] == 16


def _planes(image: ImageFile.ImageFile, name: str) -> NDArray[np.uint16]:
    """The values of a planar TIFF, H×W×C: the strips of all channels follow one another."""
    tags = tags_of(image)
    if tags.get(259, 1) != 1 or _STRIPS not in tags or tags.get(262) != 2:
        what = "16-bit colour with each channel by itself, and compressed, tiled or not RGB"
        raise ImageError(what, where=name, kind="tiff")
    width, height, channels = tags[256], tags[257], tags[SAMPLES]
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


def orientation_of(image: Image.Image) -> int:
    """EXIF orientation 1…8; 1 where there is none or the entry cannot be read."""
    try:
        value = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # damaged EXIF does not spoil the pixels
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def upright(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """H×W×C pixels turned as an EXIF orientation, 1…8, says; a view."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels
