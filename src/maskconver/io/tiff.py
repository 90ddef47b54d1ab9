"""TIFF files that Pillow cannot read: any number of channels, planes of their own, floats (extra `tiff`)."""

from __future__ import annotations

from typing import Any, BinaryIO

from numpy.typing import NDArray

from ..errors import ImageError

MAGIC = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")


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
    with _opened(file, name) as tiff:
        page, series = tiff.pages[0], tiff.series[0]
        height, width = page.imagelength, page.imagewidth
        if height * width > max_pixels:
            what = f"{width}×{height} pixels are more than the limit of {max_pixels}"
            fix = f"make it smaller, or allow it with `max_pixels={width * height}`"
            raise ImageError(what, where=name, fix=fix)
        if series.ndim > page.ndim and channels not in series.shape:
            values, axes = page.asarray(), page.axes  # a stack, of which the first is taken
        else:
            values, axes = series.asarray(), series.axes
        turn = page.tags.valueof(274, 1)
    kept = [i for i, n in enumerate(values.shape) if n > 1 or axes[i] in "YX"]
    values, axes = values.reshape([values.shape[i] for i in kept]), "".join(axes[i] for i in kept)
    if sorted(axes[i] for i in range(len(axes)) if axes[i] in "YX") != ["X", "Y"] or len(axes) > 3:
        shape = "×".join(map(str, values.shape))
        raise ImageError(f"holds {shape} values ({axes}), not one image", where=name, fix="save one plane")
    other = [i for i, axis in enumerate(axes) if axis not in "YX"]
    values = values.transpose(axes.index("Y"), axes.index("X"), *other)
    return values.reshape(*values.shape[:2], -1), turn if turn in range(1, 9) else 1


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
