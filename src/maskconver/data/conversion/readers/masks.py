"""Folders of masks, one file per image: numbers of objects, numbers of classes, or colours of classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from ....errors import DataError
from ....io.label_png import read_classes
from ..annotation import AnnotatedImage, Faults, IdSegment, Options, Reader, SourceClass, readable
from ..colors import UnknownColors, color_names, read_color_file, to_numbers
from ..files import Files
from ..pairs import MASK_FOLDERS, Pair, is_mask, pair_masks
from ..pixels import class_segments, is_jpeg, named_segments, numbered, read_colours, read_values

COLOR_FILES = (
    "dataset_meta.json",
    "labelmap.txt",
    "label_colors.txt",
    "class_dict.csv",
    "colors.txt",
    "colors.json",
)
CLASS_FILES = ("classes.json", "classes.txt", "_classes.csv")
_LOOKED_AT = 3  # masks, to recognise the format


class Masks(Reader):
    """What the three kinds share: masks and images are paired by name, see `pair_masks`."""

    generic = True

    def __init__(self, files: Files, options: Options) -> None:
        super().__init__(files, options)
        names = [n for n in files.names if not files.only or n == files.only]
        self.pairs = pair_masks(names, self.faults, str(files.root))
        if not self.pairs:
            raise DataError(_NO_PAIR, where=files.where(files.only))
        self.count = len(self.pairs)

    @classmethod
    def detect(cls, files: Files) -> str | None:
        """By the values of the first masks, and by files that name classes."""
        masks = _first_masks(files)
        fits = bool(masks) and cls.name in _kinds(files, masks) and pair_masks(files.names, Faults(), "")
        return next(iter(masks)) if fits else None

    def images(self) -> Iterator[AnnotatedImage]:
        """One image a pair."""
        for pair in self.pairs:
            where = self.files.where(pair.mask)
            try:
                image = self.image(pair.image)
                ids, segments = self._read(pair, where)
            except DataError as error:
                self.faults.reject(error, where)
                continue
            height, width = ids.shape
            name = PurePosixPath(pair.image).name
            yield AnnotatedImage(name, image, where, pair.split, width, height, ids=ids, segments=segments)

    def _read(self, pair: Pair, where: str) -> tuple[NDArray[np.int32], list[IdSegment]]:
        raise NotImplementedError


class InstanceMasks(Masks):
    """Each number is an object, 0 is none: label images of Cellpose, StarDist, QuPath, Fiji and others.

    The class is `object`, or the only name in `things`.
    """

    name, title = "instance-masks", "masks with a number for each object (Cellpose, StarDist)"

    def __init__(self, files: Files, options: Options) -> None:
        super().__init__(files, options)
        name = options.things[0] if len(options.things) == 1 else "object"
        self.classes = [SourceClass(name, True)]
        self.decisions.append(
            f'every number is an object of the class "{name}"; `things` gives it another name'
        )

    def _read(self, pair: Pair, where: str) -> tuple[NDArray[np.int32], list[IdSegment]]:
        values = read_values(self.files.path(pair.mask), where)
        ids, found = numbered(np.where(values > 0, values, -1))
        return ids, [IdSegment(k, self.classes[0].name) for k in range(1, len(found) + 1)]


class ClassMasks(Masks):
    """Each number is a class; with PNGs of objects in a folder `instances`, as `data export` writes them.

    Names are in `classes.json`, `classes.txt` (one name per line, the first for 0) or Roboflow's
    `_classes.csv`. Without them the classes are called `class 1`, …, and 0 and 255 are void.
    """

    name, title = "class-masks", "masks with a number for each class"

    def __init__(self, files: Files, options: Options) -> None:
        super().__init__(files, options)
        self._objects = any("/instances/" in f"/{n}" for n in files.names)
        named = next((n for f in CLASS_FILES for n in files.names if PurePosixPath(n).name == f), None)
        self._void, self._names = {255, 65535}, dict[int, str]()
        self._used, self._ignored = set[str](), 0  # names of classes that occur; pixels of 255
        if named is None:
            self._names_of_values()
        elif named.endswith(".csv"):
            self._names = _roboflow(files, named)
            self.classes = [SourceClass(name, False) for name in self._names.values()]
        else:
            self._read_classes(named)
        if not self._objects:
            self.decisions.append("masks of classes hold no objects, so every class is stuff")

    def _read_classes(self, name: str) -> None:
        path = self.files.path(name)
        classes = read_classes(path)
        things: dict[str, bool] = {}
        if (
            self._objects
            and path.suffix.lower() == ".json"
            and isinstance(content := self.files.json(name), dict)
        ):
            things = {str(row["name"]): bool(row.get("thing")) for row in content["classes"] if "name" in row}
        self._void = {classes.ignore}
        self._names = {c.id - 1: c.name for c in classes.categories}
        self.classes = [
            SourceClass(c.name, things.get(c.name, False), c.color, c.id) for c in classes.categories
        ]
        self._things = {name for name, thing in things.items() if thing}

    def _names_of_values(self) -> None:
        values: set[int] = set()
        for mask in readable(read_values, (self.files.path(pair.mask) for pair in self.pairs)):
            values |= set(np.unique(mask).tolist())
        self._void |= {0}
        if values - {0} == {255}:
            self._void = {0}
            self.decisions.append("the masks hold 0 and 255 alone, so 255 is a class")
        self._names = {v: f"class {v}" for v in sorted(values - self._void)}
        self.classes = [SourceClass(name, False, id=v) for v, name in self._names.items()]
        void = "0 and 255 are" if 255 in self._void else "0 is"
        looked = ", ".join(CLASS_FILES)
        self.decisions.append(f"no file names the classes (looked for {looked}); {void} void")

    def images(self) -> Iterator[AnnotatedImage]:
        """One image a pair; then a class is named that is never seen where its pixels are ignored."""
        yield from super().images()
        unused = [name for name in self._names.values() if name not in self._used]
        if len(self._names) == 2 and len(unused) == 1 and self._ignored:
            self.decisions.append(
                f'the class "{unused[0]}" occurs nowhere, while {self._ignored} pixels have the value 255, '
                "which is void; if they are that class, write its own value for them"
            )

    def _read(self, pair: Pair, where: str) -> tuple[NDArray[np.int32], list[IdSegment]]:
        values = read_values(self.files.path(pair.mask), where)
        if self._objects:
            ids, segments, unknown = self._panoptic(values, pair.mask, where)
        else:
            ids, segments, unknown = class_segments(values, self._names, self._void)
        self._used.update(segment.name for segment in segments)
        if len(self._names) == 2 and 255 in self._void:
            self._ignored += int(np.count_nonzero(values == 255))
        for value, pixels in unknown.items():
            text = f"the value {value} is not a class; {pixels} pixels are void"
            self.faults.add("unknown-class", where, text)
        ids[np.isin(values, [*(self._void - {0})])] = -1
        return ids, segments

    def _panoptic(
        self, values: NDArray[np.int32], mask: str, where: str
    ) -> tuple[NDArray[np.int32], list[IdSegment], dict[int, int]]:
        """Objects of the things by their numbers, one segment for each stuff class."""
        name = "/".join("instances" if p in MASK_FOLDERS else p for p in PurePosixPath(mask).parts)
        if not self.files.has(name):
            what = f"there is no {name} that tells the objects apart"
            raise DataError(what, where=where, kind="missing-objects")
        objects = read_values(self.files.path(name), self.files.where(name))
        if objects.shape != values.shape:
            raise DataError(f"{name} is of another size", where=where, kind="size-mismatch")
        keys = values.astype(np.int64) << 32 | objects
        ids, segments, unnamed = named_segments(keys, lambda key: self._names.get(key >> 32))
        unknown = Counter[int]()
        for key, pixels in unnamed.items():
            if key >> 32 not in self._void:
                unknown[key >> 32] += pixels
        return ids, segments, unknown


class ColorMasks(Masks):
    """Each colour is a class, as `colors` says; a class called void, ignore or unlabeled is void."""

    name, title = "color-masks", "masks with a colour for each class"

    def __init__(self, files: Files, options: Options) -> None:
        super().__init__(files, options)
        path = options.colors or next(
            (files.path(n) for f in COLOR_FILES for n in files.names if PurePosixPath(n).name == f), None
        )
        if path is None:
            raise DataError(
                f"the masks are in colour, and nothing says which colour is which class; {self._seen()}",
                where=str(files.root),
                fix="name a file with `colors`, one line per class, such as: road 128 64 128",
            )
        self._table, self._unknown = read_color_file(path), UnknownColors()
        self.classes = [SourceClass(name, False, color) for name, color in color_names(self._table).items()]
        self._kept = {c.name for c in self.classes}
        self.decisions.append(f"colours are those of {path}; every class is stuff")

    def _seen(self) -> str:
        """The most frequent colours of the first masks."""
        counts: dict[int, int] = {}
        for first in readable(read_colours, (self.files.path(pair.mask) for pair in self.pairs[:10])):
            colours = first.astype(np.int32)
            packed = colours[..., 0] << 16 | colours[..., 1] << 8 | colours[..., 2]
            for value, count in zip(*(a.tolist() for a in np.unique(packed, return_counts=True))):
                counts[value] = counts.get(value, 0) + count
        common = sorted(counts, key=lambda v: -counts[v])[:8]
        shown = ", ".join(f"{v >> 16} {v >> 8 & 255} {v & 255}" for v in common)
        return f"the first masks have {len(counts)} colours, the most frequent {shown}"

    def images(self) -> Iterator[AnnotatedImage]:
        """One image a pair; then the colours that are of no class are listed."""
        yield from super().images()
        self._unknown.report(self.faults, str(self.files.root))

    def _read(self, pair: Pair, where: str) -> tuple[NDArray[np.int32], list[IdSegment]]:
        path = self.files.path(pair.mask)
        colours = read_colours(path, where)
        numbers = to_numbers(colours, self._table, self._unknown, where, jpeg=is_jpeg(path))
        names = {k: name for k, name in enumerate(self._table.names) if name in self._kept}
        first = {name: k for k, name in reversed(names.items())}  # a class may have several colours
        numbers = np.array([*(first.get(n, -1) for n in self._table.names), -1], np.int32)[numbers]
        ids, segments, _ = class_segments(numbers, names, range(len(self._table.names)))
        return ids, segments


_NO_PAIR = (
    "no mask has the name of an image; looked for folders images and masks and the like, and for x_mask.png"
)


def _roboflow(files: Files, name: str) -> dict[int, str]:
    """Names by value, of lines such as `1, road`."""
    rows = [line.split(",", 1) for line in files.text(name).splitlines()]
    names = {int(r[0]): r[1].strip() for r in rows if len(r) == 2 and r[0].strip().isdigit()}
    if not names:
        raise DataError(
            "names no classes", where=files.where(name), fix="write one line per class, such as: 1, road"
        )
    return names


def _first_masks(files: Files) -> dict[str, NDArray[np.generic] | None]:
    """The first masks: values, or None for those in colour."""
    found: dict[str, NDArray[np.generic] | None] = {}
    for name in files.image_names():
        if is_mask(name):
            try:
                found[name] = read_values(files.path(name))
            except DataError as error:
                if error.kind in ("colour-mask", "lossy-mask"):
                    found[name] = None
            if len(found) == _LOOKED_AT:
                break
    return found


def _kinds(files: Files, masks: dict[str, NDArray[np.generic] | None]) -> set[str]:
    """The names of the formats that the masks can be."""
    bases = {PurePosixPath(n).name for n in files.names}
    if any(values is None for values in masks.values()):
        return {"color-masks"}
    if bases & set(CLASS_FILES):
        return {"class-masks"}
    if bases & set(COLOR_FILES):
        return {"color-masks"}
    if any(n.lower().endswith((".tif", ".tiff")) or "_masks." in n for n in masks):
        return {"instance-masks"}
    if any(int(values.max(initial=0)) > 255 for values in masks.values() if values is not None):
        return {"instance-masks"}
    return {"instance-masks", "class-masks"}
