"""Masks as files: values of one channel of any depth, palettes and colours."""

from __future__ import annotations

import io
import posixpath
from collections.abc import Callable, Collection, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...core.files import LFS_FIX, LFS_POINTER, MAX_PIXELS
from ...core.segments import run_starts
from ...errors import DataError, one_line
from ...io.label_png import GREY, read_classes, stored_values, tiff_values
from ..layout import CLASSES_FILES
from .annotation import AnnotatedImage, IdSegment, Shape, SourceClass
from .files import Files, stem_of
from .splits import folder_split, split_name


def read_values(path: Path, where: str = "") -> NDArray[np.int32]:
    """The values of a mask file: class or object numbers, H×W int32.

    Palettes give their indices; colours whose channels are equal count as grey. 64-bit TIFFs need tifffile.

    Args:
        path: a PNG, TIFF, BMP or GIF.
        where: what messages call it.

    Raises:
        DataError: unreadable, a JPEG (which blurs numbers), in colour, several pages, or values that are no
            whole numbers of 0 or more; `kind` is `unreadable-mask`, `lossy-mask` or `colour-mask`.
    """
    where = where or str(path)
    values = _open(path, where, colours=False)
    if values.ndim == 3:
        if (values != values[..., :1]).any():
            raise DataError(
                "is in colour; its pixels must be numbers",
                where=where,
                fix="say which colour is which class with `colors`",
                kind="colour-mask",
            )
        values = values[..., 0]
    if values.dtype.kind == "f" and not (np.isfinite(values).all() and (values == np.floor(values)).all()):
        raise DataError("its values are not whole numbers", where=where, kind="unreadable-mask")
    if values.size and (values.min() < 0 or values.max() > np.iinfo(np.int32).max):
        least, most = values.min(), values.max()
        what = f"has values {least:g}…{most:g}; they must be from 0 to {np.iinfo(np.int32).max}"
        raise DataError(what, where=where, kind="unreadable-mask")
    return values.astype(np.int32)


def read_colours(path: Path, where: str = "") -> NDArray[np.uint8]:
    """The colours of a mask file, H×W×3 uint8: palettes resolved, grey repeated, alpha dropped.

    Raises:
        DataError: it cannot be read; `kind` is `unreadable-mask`.
    """
    return _open(path, where or str(path), colours=True)


def numbered(keys: NDArray[np.integer]) -> tuple[NDArray[np.int32], list[int]]:
    """An id map from any numbers, negative ones being void.

    Returns:
        H×W int32, 0 = void, and the number behind id 1, 2, …, ascending.
    """
    flat = keys.ravel()
    starts = run_starts(flat)
    values, inverse = np.unique(flat[starts], return_inverse=True)
    void = int(np.searchsorted(values, 0))
    ids = np.maximum(inverse - void + 1, 0).astype(np.int32)
    return np.repeat(ids, np.diff(starts, append=flat.size)).reshape(keys.shape), values[void:].tolist()


def named_segments(
    keys: NDArray[np.integer], name_of: Callable[[int], str | None]
) -> tuple[NDArray[np.int32], list[IdSegment], dict[int, int]]:
    """A segment for every number of a map that has a name.

    Args:
        keys: H×W; negative numbers are void.
        name_of: the name of the class of a number; None for those that become void.

    Returns:
        The id map; its segments; and how many pixels each number without a name has.
    """
    ids, found = numbered(keys)
    pixels = np.bincount(ids.ravel(), minlength=len(found) + 1).tolist()
    table, segments, unknown = np.zeros(len(found) + 1, np.int32), list[IdSegment](), dict[int, int]()
    for position, key in enumerate(found, 1):
        if (name := name_of(key)) is None:
            unknown[key] = pixels[position]
        else:
            segments.append(IdSegment(len(segments) + 1, name))
            table[position] = len(segments)
    return table[ids], segments, unknown


def class_segments(
    values: NDArray[np.int32], names: Mapping[int, str], void: Collection[int] = ()
) -> tuple[NDArray[np.int32], list[IdSegment], dict[int, int]]:
    """A class map with one segment per class.

    Args:
        values: H×W numbers of classes.
        names: of the classes by number.
        void: numbers that mean no class.

    Returns:
        The id map; its segments; and how many pixels have numbers that are neither, which become void.
    """
    ids, segments, unknown = named_segments(values, names.get)
    return ids, segments, {value: pixels for value, pixels in unknown.items() if value not in void}


def is_jpeg(path: Path) -> bool:
    """Whether a file begins as a JPEG does, whatever its name."""
    with path.open("rb") as file:
        return file.read(2) == b"\xff\xd8"


def _open(path: Path, where: str, *, colours: bool) -> NDArray[Any]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read ({one_line(error)})", where=where, kind="unreadable-mask") from None
    if data.startswith(LFS_POINTER):
        raise DataError("not an image", where=where, fix=LFS_FIX, kind="unreadable-mask")
    if not data:
        fix = "copy or export it again"
        raise DataError("the file is empty (0 bytes)", where=where, fix=fix, kind="unreadable-mask")
    if data[:2] == b"\xff\xd8" and not colours:
        fix = "export the masks as PNG"
        raise DataError(
            "is a JPEG file, whose compression changes values", where=where, fix=fix, kind="lossy-mask"
        )
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > MAX_PIXELS:
                what = f"{image.width}×{image.height} pixels are more than {MAX_PIXELS}"
                raise DataError(what, where=where, kind="unreadable-mask")
            if (pages := getattr(image, "n_frames", 1)) > 1:
                raise DataError(f"holds {pages} pages", where=where, fix="save one", kind="unreadable-mask")
            if colours:
                image.info.pop("transparency", None)
                return np.asarray(image.convert("RGB"))
            if image.mode in GREY:
                return stored_values(image)
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if path.suffix.lower() in (".tif", ".tiff"):
            return tiff_values(data, where, error)
        raise DataError(f"cannot be read ({one_line(error)})", where=where, kind="unreadable-mask") from None


class SemanticPngs:
    """PNGs of class numbers beside annotations of objects, to be drawn below them.

    They lie in a folder `semantic`, `stuffthingmaps` or `stuff_pixelmaps`, with the names of the images; a
    `classes.json` or `classes.txt` there or in the source names their classes.

    Args:
        files: the source.
        things: classes that the annotations of objects have; they are not taken from the PNGs.

    Attributes:
        classes: the others.
        named: the file that names them; "" where there is none, and then there are no classes.
        masks: names of the PNGs, by the image's name without folder and ending.

    Raises:
        DataError: the file of classes is none.
    """

    FOLDERS = frozenset(("semantic", "stuffthingmaps", "stuff_pixelmaps"))

    def __init__(self, files: Files, things: Collection[str]) -> None:
        self._files = files
        self.masks: dict[str, list[str]] = {}
        for name in files.names:
            path = PurePosixPath(name)
            if path.suffix.lower() == ".png" and self.FOLDERS & {p.lower() for p in path.parts[:-1]}:
                self.masks.setdefault(stem_of(name), []).append(name)
        self._splits = {folder_split(n) for names in self.masks.values() for n in names} - {""}
        lists = [n for n in files.names if posixpath.basename(n) in CLASSES_FILES] if self.masks else []
        self.named = min(lists, key=lambda n: (n.count("/"), n), default="")
        self.classes: list[SourceClass] = []
        self._names: dict[int, str] = {}
        if self.named:
            labels = read_classes(files.path(self.named))
            kept = [c for c in labels.categories if c.name not in things]
            self.classes = [SourceClass(c.name, False, c.color) for c in kept]
            self._names = {c.id - 1: c.name for c in kept if c.id - 1 != labels.ignore}

    def shapes(self, image: AnnotatedImage) -> list[Shape]:
        """What the PNG of an image adds to it.

        Raises:
            DataError: it cannot be read, or has another size than the image is said to have.
        """
        found = self.masks.get(stem_of(image.name), []) if self._names else []
        if (split := split_name(image.split)) in self._splits:  # not one of another split, of the same name
            found = [n for n in found if folder_split(n) in ("", split)]
        if not found:
            return []
        name = next((n for n in found if image.split and image.split in n.split("/")), found[0])
        values = read_values(self._files.path(name), self._files.where(name))
        stated = image.height, image.width
        if None not in stated and stated != values.shape:
            what = f"{values.shape[1]}×{values.shape[0]}, but the image is {stated[1]}×{stated[0]}"
            raise DataError(what, where=self._files.where(name), kind="size-mismatch")
        there = (v for v in np.unique(values).tolist() if v in self._names)
        return [
            Shape(self._names[v], mask=values == v, layer=-1, entry=f"value {v} of {name}") for v in there
        ]
