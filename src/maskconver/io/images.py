"""Reading pictures of any usual kind as H×W×3 uint8, or with the channels that are asked for."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile

from ..errors import ImageError
from .pixels import ImageWarning as ImageWarning
from .pixels import to_8_bit, warn_about

MAX_PIXELS = 179_000_000
BAND_PIXELS = 1 << 16
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")
SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif"})

_MAGIC = (b"\xff\xd8", b"\x89PNG", b"RIFF", b"II*\x00", b"MM\x00*", b"BM", b"GIF8")
_EXIF_ORIENTATION = 0x0112
_pillow_limit = threading.Lock()


def read_image(
    source: str | os.PathLike[str] | bytes | BinaryIO,
    *,
    max_pixels: int = MAX_PIXELS,
    white_level: float | None = None,
    name: str | None = None,
    channels: int = 3,
) -> NDArray[np.uint8]:
    """Read a picture upright, in RGB, 8 bits a channel.

    The content decides about the format, not the name. Grey is repeated to three channels, alpha is dropped
    (not composited), CMYK and palettes become RGB, EXIF rotation is applied, the first of several frames is
    taken. Values above 8 bits are scaled by their full range (65535), or by `white_level` where it is given.

    Args:
        source: a path, the bytes of a file, or a binary file at its beginning.
        max_pixels: pictures with more pixels are refused before memory is taken for them.
        white_level: the value shown as white in grey pictures of more than 8 bits, e.g. 4095 for 12 bits.
        name: what messages call the picture; by default its path.
        channels: 3; or 1, grey (colours become their luma); or 4, the bands of a picture that has four, as
            they are (RGBA, CMYK).

    Returns:
        H×W×`channels` uint8, contiguous and writable.

    Raises:
        ImageError: no such file, not a picture, damaged, cut off, more pixels than `max_pixels`, or no four
            bands where they are asked for.

    Warns:
        ImageWarning: several frames; a 16-bit picture that looks black; a white level of no use.
    """
    name = name or _name_of(source)
    with _opened(source, name) as image:
        _check_size(image.size, max_pixels, name)
        return _decode(image, white_level, name, channels)


def read_reduced(
    source: str | os.PathLike[str] | bytes | BinaryIO,
    least: Callable[[tuple[int, int]], tuple[int, int]],
    *,
    max_pixels: int = MAX_PIXELS,
    white_level: float | None = None,
    name: str | None = None,
    channels: int = 3,
) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """Read a picture; a JPEG at a half, a quarter or an eighth of its size where that is large enough.

    The JPEG decoder then calculates only that many pixels, each the mean of those it stands for (the last row
    and column of fewer). All other files are read as `read_image` reads them.

    Args:
        source, max_pixels, white_level, name, channels: as for `read_image`.
        least: from the picture's (height, width) to the (height, width) it must keep.

    Returns:
        h×w×`channels` uint8, and the picture's own (height, width).

    Raises, warns:
        As `read_image`.
    """
    name = name or _name_of(source)
    with _opened(source, name) as image:
        _check_size(image.size, max_pixels, name)
        if not isinstance(image, JpegImageFile):
            pixels = _decode(image, white_level, name, channels)
            return pixels, (pixels.shape[0], pixels.shape[1])
        width, height = image.size  # before it is turned upright
        if _orientation(image) >= 5:
            own = width, height
            image.draft(None, least(own))
        else:
            own = height, width
            kept_height, kept_width = least(own)
            image.draft(None, (kept_width, kept_height))
        return _decode(image, white_level, name, channels), own


def image_size(
    source: str | os.PathLike[str] | bytes | BinaryIO, *, name: str | None = None
) -> tuple[int, int]:
    """Height and width of a picture as it will be read (EXIF rotation applied), from its header alone.

    Raises:
        ImageError: no such file or not a picture. Damage behind the header is not seen.
    """
    with _opened(source, name or _name_of(source)) as image:
        width, height = image.size
        if isinstance(image, TiffImageFile):  # some versions of Pillow have turned this size already
            width, height = image.tag_v2[256], image.tag_v2[257]
        return (width, height) if _orientation(image) >= 5 else (height, width)


def _name_of(source: Any) -> str:
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    return "picture" if isinstance(source, bytes) else str(getattr(source, "name", "picture"))


def _open_file(source: Any, name: str) -> BinaryIO:
    if isinstance(source, bytes | bytearray | memoryview):
        return io.BytesIO(source)
    if not isinstance(source, str | os.PathLike):
        return source
    try:
        return Path(source).open("rb")
    except FileNotFoundError:
        raise ImageError(f"{name}: no such file") from None
    except IsADirectoryError:
        raise ImageError(f"{name}: is a folder, not a picture") from None
    except (OSError, ValueError) as error:
        raise ImageError(f"{name}: cannot be opened ({_reason(error)})") from None


@contextmanager
def _opened(source: Any, name: str) -> Iterator[ImageFile.ImageFile]:
    """The picture behind `source` with its header read; all that goes wrong becomes an `ImageError`."""
    file = _open_file(source, name)
    try:
        with _identify(file, name) as image:
            yield image
    except (ImageError, Warning):
        raise
    except MemoryError:
        raise ImageError(f"{name}: not enough memory for this picture; make it smaller") from None
    except Exception as error:  # Pillow's decoders raise almost anything on damaged data
        raise ImageError(f"{name}: damaged or cut off ({_reason(error)}); copy or export it again") from None
    finally:
        if file is not source:
            file.close()


def _identify(file: BinaryIO, name: str) -> ImageFile.ImageFile:
    """Reads the header. Pillow's size limit is one for the whole process; `_check_size` stands in for it."""
    start = file.tell()
    head = file.read(16)
    file.seek(start)
    if not head:
        raise ImageError(f"{name}: the file is empty (0 bytes); copy it again")
    with _pillow_limit:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            image = Image.open(file, formats=FORMATS)
        except UnidentifiedImageError:
            if head.startswith(_MAGIC):
                raise ImageError(
                    f"{name}: its header is damaged or cut off; copy or export it again"
                ) from None
            kind = "a text or web page" if head.lstrip()[:1] == b"<" else "not a picture"
            raise ImageError(
                f"{name}: {kind}, not one of JPEG, PNG, WebP, TIFF, BMP, GIF; convert it or leave it out"
            ) from None
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    assert isinstance(image, ImageFile.ImageFile)
    return image


def _reason(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__


def _check_size(size: tuple[int, int], max_pixels: int, name: str) -> None:
    width, height = size
    if width * height > max_pixels:
        raise ImageError(
            f"{name}: {width}×{height} is {width * height / 1e6:.0f} million pixels, more than the limit of "
            f"{max_pixels / 1e6:.0f} million; make it smaller, or allow it with --max-pixels {width * height}"
        )


def _decode(
    image: ImageFile.ImageFile, white_level: float | None, name: str, channels: int
) -> NDArray[np.uint8]:
    if channels not in (1, 3, 4):
        raise ImageError(f"{name}: files are read with 1, 3 or 4 channels, the model takes {channels}")
    bands = 4 if image.mode == "P" and "transparency" in image.info else len(image.getbands())
    if channels == 4 != bands:
        raise ImageError(
            f"{name}: has {bands} channel{'s' * (bands > 1)} ({image.mode}), the model takes 4; give "
            "pictures of 4 channels, or make the model with --model.in_channels 3"
        )
    if image.format in ("GIF", "WEBP", "TIFF", "PNG") and getattr(image, "is_animated", False):
        warn_about(f"{name}: has several frames; only the first is read", 3)
    if (
        white_level is not None
        and image.tile
        and ";16" in str(image.tile[0][3])
        and len(image.getbands()) > 1
    ):
        warn_about(
            f"{name}: 16-bit colour is scaled by its full range; --white-level {white_level:g} is for grey", 3
        )
    image.load()
    turn = _orientation(image)  # after load(): Pillow turns some TIFFs itself and then clears the entry
    if image.mode.startswith("I") or image.mode == "F":
        pixels = to_8_bit(np.asarray(image), white_level, name, image.mode)
    else:
        if channels < 4:
            image.info.pop("transparency", None)  # Pillow would warn that the alpha of a palette gets lost
        pixels = _bands(image, channels)
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], channels, axis=2)
    pixels = _upright(pixels, turn)
    return np.require(pixels, np.uint8, ["C", "W", "O"])


def _bands(image: Image.Image, channels: int) -> NDArray[np.uint8]:
    """H×W×C of a loaded picture, a stripe of rows at a time: `np.asarray(image)` holds it twice more."""
    width, height = image.size
    pixels = np.empty((height, width, channels), np.uint8)
    rows = max(BAND_PIXELS // width, 1)
    for top in range(0, height, rows):
        stripe = image.crop((0, top, width, min(top + rows, height)))
        if channels == 4:
            values = np.asarray(stripe.convert("RGBA") if stripe.mode == "P" else stripe)
        elif channels == 1 or stripe.mode in ("1", "L", "LA", "La"):
            values = np.asarray(_opaque(stripe).convert("L"))[..., None]
        else:
            values = np.asarray(_opaque(stripe).convert("RGB"))
        pixels[top : top + rows] = values
    return pixels


def _opaque(image: Image.Image) -> Image.Image:
    """A picture in a mode that Pillow converts to RGB and grey without its alpha."""
    return image.convert("RGBA") if image.mode == "PA" else image


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1…8; 1 where there is none or the entry cannot be read."""
    try:
        value = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # damaged EXIF does not spoil the pixels
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels
