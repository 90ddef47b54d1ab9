"""Label PNGs and TIFFs (value = class) and the file that names the classes."""

from __future__ import annotations

import io
import json
import os
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..core.categories import Categories, Category, made_up_color
from ..core.files import decoded, require_content
from ..errors import DataError, ImageError, one_line
from .images import MAX_PIXELS, image_size
from .tiff import MAGIC as TIFF

IGNORE = 255
GREY = ("1", "L", "P", "I", "I;16", "I;16B", "F")
"""Pillow's modes of one channel."""
_FORM = '{"ignore": 255, "classes": [{"label": 0, "name": "sky", "color": [128, 128, 128]}, …]}'


@dataclass(frozen=True)
class LabelClasses:
    """What the values of label PNGs mean.

    Attributes:
        categories: the classes, all stuff, in the order of their values; category id = value + 1.
        ignore: the value of pixels without a class.
        path: the file this stands in, for messages.
    """

    categories: Categories
    ignore: int = IGNORE
    path: str = ""

    @property
    def table(self) -> NDArray[np.int32]:
        """(65536,) int32: segment id (value + 1) by value, 0 for the value to ignore, -1 for all others."""
        table = np.full(65536, -1, np.int32)
        table[self.categories.ids - 1] = self.categories.ids
        if 0 <= self.ignore < len(table):
            table[self.ignore] = 0
        return table


def read_classes(path: str | os.PathLike[str]) -> LabelClasses:
    """The classes of a label folder.

    Two forms: JSON as `{"ignore": 255, "classes": [{"label": 0, "name": "sky", "color": [r, g, b]}, …]}`,
    where `ignore` and `color` may be left out and a class may be just its name (then its value is its
    position); or text with one name per line, the first for value 0.

    Raises:
        DataError: no such file, not of these forms, or a value twice.
    """
    path = Path(path)
    require_content(path, "a file of classes", DataError)
    try:
        text = decoded(path.read_bytes())
    except FileNotFoundError:
        raise DataError("no such file (it names the classes of the label PNGs)", where=str(path)) from None
    except OSError as error:
        raise DataError(f"cannot be read ({one_line(error)})", where=str(path)) from None
    ignore: Any = IGNORE
    rows: Any
    if path.suffix.lower() == ".json":
        try:
            rows = json.loads(text)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}: not JSON: {error.msg} at line {error.lineno}") from None
        except RecursionError:
            raise DataError(f"{path}: not JSON of classes: nested too deeply") from None
        if isinstance(rows, dict):
            ignore, rows = rows.get("ignore", IGNORE), rows.get("classes")
    else:
        rows = [line.strip() for line in text.splitlines() if line.strip()]
    if not _is_value(ignore := _whole(ignore)):
        raise DataError(f'{path}: "ignore" is {ignore!r}, not a value in 0…65535; leave it out for {IGNORE}')
    if not isinstance(rows, list) or not rows:
        raise DataError(f"{path}: names no classes; it must look like {_FORM}, or be text with a name a line")
    classes = sorted((_class(row, position, path) for position, row in enumerate(rows)), key=lambda c: c.id)
    for first, second in pairwise(classes):
        if first.id == second.id:
            raise DataError(f'{path}: "{first.name}" and "{second.name}" both have the value {first.id - 1}')
    for c in classes:
        if c.id - 1 == ignore:
            raise DataError(f'{path}: "{c.name}" has the value {ignore}, which is the one to ignore')
    return LabelClasses(Categories(classes), ignore, os.fspath(path))


def _class(row: Any, position: int, path: Path) -> Category:
    row = {"name": row} if isinstance(row, str) else row
    value: Any = _whole(row.get("label", position)) if isinstance(row, dict) else None
    if isinstance(row, dict) and "id" in row and "label" not in row:
        raise DataError(f'{path}: class {str(row)[:60]} has an "id"; call its value in the PNGs "label"')
    if not _is_value(value) or "name" not in row:
        raise DataError(f"{path}: class {str(row)[:60]} lacks a name or a label in 0…65535; write {_FORM}")
    color = row.get("color") or made_up_color(position)
    color = [_whole(v) for v in color] if isinstance(color, list | tuple) else []
    if len(color) != 3 or not all(_is_value(v) and v <= 255 for v in color):
        raise DataError(f'{path}: the color of "{row["name"]}" is not three numbers 0…255')
    return Category(value + 1, str(row["name"]), False, (color[0], color[1], color[2]))


def _whole(value: Any) -> Any:
    """3 of 3.0, as some programs write it; anything else as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _is_value(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 65535


def read_label_png(data: bytes, classes: LabelClasses, name: str) -> NDArray[np.int32]:
    """A label PNG or TIFF as id map.

    Args:
        data: the file's bytes.
        classes: what the values mean.
        name: what messages call the file.

    Returns:
        H×W int32: value + 1; 0 for the value to ignore.

    Raises:
        DataError: damaged, not of one channel, or a value that is neither a class nor the one to ignore.
    """
    values = _values(data, name)
    ids = classes.table[values]
    if (ids < 0).any():
        strange = values[ids < 0]
        known = f"{len(classes.categories)} classes, ignore {classes.ignore}"
        count = f"{len(strange)} pixel{'s' * (len(strange) > 1)}"
        raise DataError(
            f"the value {int(strange[0])} is not a class of {classes.path} ({known}); {count} outside the "
            "classes",
            where=name,
            fix="correct the PNG, or add the class",
            kind="unknown-label",
        )
    return ids


def stored_values(image: Image.Image) -> NDArray[Any]:
    """The samples of a grey or palette image as its file holds them, H×W.

    Pillow spreads grey of 2 and 4 bits over 0…255 and turns TIFFs round that have 0 for white.

    Args:
        image: a PNG whose header was just read, or an image of another format; it is loaded.
    """
    tags = getattr(image, "tag_v2", {})
    bits, turned = tags.get(258, (8,))[0], tags.get(262) == 0
    if image.format == "PNG":
        file: Any = getattr(image, "fp", None)
        at = file.tell()
        file.seek(24)
        bits = file.read(1)[0]
        file.seek(at)
    values = np.asarray(image)
    if image.mode == "1":
        return values.astype(np.uint8) ^ np.uint8(turned)
    if image.mode != "L":
        return values
    values = 255 - values if turned else values
    return values // (255 // (2**bits - 1)) if bits < 8 else values


def _values(data: bytes, name: str) -> NDArray[np.integer]:
    """The values of a PNG of one channel, of equal ones or with a palette, or of a TIFF of one channel."""
    values: NDArray[Any]
    try:
        height, width = image_size(data, name=name)
        if height * width > MAX_PIXELS:
            raise DataError(f"{width}×{height} pixels are more than {MAX_PIXELS} and are refused", where=name)
        with Image.open(io.BytesIO(data), formats=("PNG", "TIFF")) as image:
            if (pages := getattr(image, "n_frames", 1)) > 1:
                raise DataError(f"holds {pages} pages", where=name, fix="save one")
            mode = f"{len(image.getbands())} channels ({image.mode})"
            values = stored_values(image) if image.mode in GREY else np.asarray(image.convert("RGB"))
    except ImageError as error:
        raise DataError(error.what, where=name, fix=error.fix) from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if not data.startswith(TIFF):
            what = f"not a readable PNG or TIFF ({one_line(error)})"
            raise DataError(what, where=name, fix="copy or write it again") from None
        values, mode = tiff_values(data, name, error), ""
    if values.ndim == 3:
        if (values != values[..., :1]).any():
            fix = "a label PNG has one channel, whose value is the class "
            fix += "(panoptic PNGs go with a panoptic JSON)"
            raise DataError(f"has {mode}", where=name, fix=fix)
        values = values[..., 0]
    if values.dtype.kind == "f" and not (values == np.floor(values)).all():
        raise DataError("its values are not whole numbers", where=name, fix="write the classes as 16 bits")
    if values.min(initial=0) < 0 or values.max(initial=0) > 65535:
        raise DataError("holds values beyond 0…65535", where=name, fix="write the classes as 16 bits")
    return values.astype(np.uint16) if values.dtype.itemsize > 2 or values.dtype.kind == "f" else values


def tiff_values(data: bytes, where: str, error: Exception) -> NDArray[Any]:
    """The values of a TIFF that Pillow cannot read (64 bits), H×W, through tifffile.

    Raises:
        DataError: tifffile is not installed or cannot read it, or it has several planes.
    """
    try:
        import tifffile
    except ImportError:
        fix = "pip install tifffile reads more kinds of TIFF"
        what = f"cannot be read ({one_line(error)})"
        raise DataError(what, where=where, fix=fix, kind="unreadable-mask") from None
    try:
        values = np.squeeze(tifffile.imread(io.BytesIO(data)))
    except Exception as again:  # its errors have no common class
        raise DataError(f"cannot be read ({one_line(again)})", where=where, kind="unreadable-mask") from None
    if values.ndim != 2:
        what = f"holds an array of {' × '.join(map(str, values.shape))} values, not one plane"
        raise DataError(what, where=where, fix="save one plane", kind="unreadable-mask")
    return values
