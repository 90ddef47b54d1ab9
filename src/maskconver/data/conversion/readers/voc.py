"""Pascal VOC: SegmentationClass and SegmentationObject, also as CVAT exports them ("Segmentation mask")."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from ....errors import DataError
from ..annotation import AnnotatedImage, Options, Reader, SourceClass
from ..colors import ColorTable, UnknownColors, read_color_file, to_numbers
from ..files import Files, stem_of
from ..pairs import SPLITS
from ..pixels import named_segments, read_colours, read_values

NAMES = ["aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable"]
NAMES += ["dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"]
BORDER = 255
_LISTS = ("class_names.txt", "labels.txt", "classes.txt")  # the first as labelme2voc writes it


def palette_color(index: int) -> tuple[int, int, int]:
    """VOC's colour of a value: its bits dealt out to red, green and blue, the highest first."""
    parts = [sum((index >> (3 * k + channel) & 1) << (7 - k) for k in range(8)) for channel in range(3)]
    return parts[0], parts[1], parts[2]


class Voc(Reader):
    """Things where there are object PNGs; class PNGs alone are read as stuff. The border (255) stays void.

    Classes are those of CVAT's `labelmap.txt`, else the lines of `class_names.txt`, `labels.txt` or
    `classes.txt`, the first being the background (which may be left out), else VOC's own 20.
    """

    name, title = "voc", "Pascal VOC"

    def __init__(self, files: Files, options: Options) -> None:
        super().__init__(files, options)
        self._ending, self.names = _class_pngs(files)
        if not self.names:
            raise DataError("no PNGs in a folder SegmentationClass", where=files.where(files.only))
        labelmap = next((n for n in files.names if PurePosixPath(n).name == "labelmap.txt"), None)
        self._own_colors = labelmap is not None
        if labelmap:
            self._colors = read_color_file(files.path(labelmap))
        else:
            names = self._listed_names()
            self._colors = ColorTable(names, [palette_color(k) for k in range(len(names))], str(files.root))
        self._by_object = any(f"/SegmentationObject{self._ending}/" in f"/{n}" for n in files.names)
        rows = zip(self._colors.names, self._colors.colors)
        self.classes = [
            SourceClass(name, self._by_object, color)
            for name, color in rows
            if name.lower().strip("_") not in ("background", "ignored")
        ]
        self._kept = {c.name for c in self.classes}
        self._splits, self._unknown = self._listed(), UnknownColors()
        if not self._by_object:
            self.decisions.append("there is no folder SegmentationObject, so every class is stuff")

    @classmethod
    def detect(cls, files: Files) -> str | None:
        """By the folder SegmentationClass."""
        return next(iter(_class_pngs(files)[1]), None)

    def _listed_names(self) -> list[str]:
        """The names of the values, from 0 on."""
        found = [n for wanted in _LISTS for n in self.files.names if PurePosixPath(n).name.lower() == wanted]
        lines = self.files.text(found[0]).splitlines() if found else NAMES
        names = [name for line in lines if (name := line.strip()) and name != "__ignore__"]
        where = found[0] if found else f"Pascal VOC, as there is no labelmap.txt or {_LISTS[0]}"
        self.decisions.append(f"the names of the classes are those of {where}")
        return names if names and names[0].lower().strip("_") == "background" else ["background", *names]

    def _listed(self) -> dict[str, str]:
        """Splits by name, of `ImageSets/Segmentation`."""
        found: dict[str, str] = {}
        for name in self.files.names:
            path = PurePosixPath(name)
            if path.parts[-3:-1] == ("ImageSets", "Segmentation") and path.stem.lower() in SPLITS:
                split = SPLITS[path.stem.lower()]
                for line in self.files.text(name).splitlines():
                    if line.strip():
                        found.setdefault(unicodedata.normalize("NFC", line.split()[0]), split)
        return found

    def images(self) -> Iterator[AnnotatedImage]:
        """One image a class PNG; those that a list names without a PNG are counted."""
        there = {stem_of(n) for n in self.names}
        missing = [s for s, split in self._splits.items() if s not in there and split != "test"]
        for stem in missing:
            where = self.files.where("ImageSets/Segmentation")
            self.faults.add("missing-mask", where, f"lists {stem}, of which there is no class PNG")
        yield from super().images()
        self._unknown.report(self.faults, self.files.where(""))

    def one(self, name: str) -> AnnotatedImage:
        where, stem = self.files.where(name), PurePosixPath(name).stem
        top = name[: name.index("SegmentationClass")]
        image = self.image(f"{stem}.jpg", f"{top}JPEGImages", by_stem=True)
        classes = self._numbers(name, where)
        keys = classes.astype(np.int64)
        objects = f"{top}SegmentationObject{self._ending}/{stem}.png"
        if self._by_object:
            if not self.files.has(objects):
                what = f"there is no {objects} that tells the objects apart"
                raise DataError(what, where=where, kind="missing-objects")
            numbers = self._objects(objects)
            if numbers.shape != classes.shape:
                sizes = [f"{a.shape[1]}×{a.shape[0]}" for a in (numbers, classes)]
                what = f"is {sizes[0]}, but {name} is {sizes[1]}"
                raise DataError(what, where=self.files.where(objects), kind="size-mismatch")
            border = (numbers == BORDER) | (classes < 0)
            keys = np.where(border, -1, keys << 32 | numbers)
        names = {k: name for k, name in enumerate(self._colors.names) if name in self._kept}
        ids, segments, _ = named_segments(keys, lambda key: names.get(key >> 32 if self._by_object else key))
        ids[keys < 0] = -1
        height, width = classes.shape
        shown = f"{stem}{image.suffix if image else '.jpg'}"
        split = self._splits.get(stem_of(name), "")
        return AnnotatedImage(shown, image, where, split, width, height, ids=ids, segments=segments)

    def _numbers(self, name: str, where: str) -> NDArray[np.int32]:
        """Positions in the table of colours, -1 for the border."""
        path = self.files.path(name)
        if self._own_colors:  # palettes, too, mean their colours
            unknown = UnknownColors()
            values = to_numbers(
                read_colours(path, where), self._colors, unknown, where, void=[palette_color(BORDER)]
            )
            if not unknown.found and not unknown.near:
                return values
        try:
            values = read_values(path, where)
        except DataError as error:
            if error.kind != "colour-mask":
                raise
            colours = read_colours(path, where)
            return to_numbers(colours, self._colors, self._unknown, where, void=[palette_color(BORDER)])
        if (strange := values[(values >= len(self._colors.names)) & (values != BORDER)]).size:
            text = f"the value {int(strange[0])} is not a class; {strange.size} pixels are void"
            self.faults.add("unknown-class", where, text)
        return np.where(values < len(self._colors.names), values, -1)

    def _objects(self, name: str) -> NDArray[np.int64]:
        """A number for each object; `BORDER` for the border."""
        path, where = self.files.path(name), self.files.where(name)
        try:
            return read_values(path, where).astype(np.int64)
        except DataError as error:
            if error.kind != "colour-mask":
                raise
        parts = read_colours(path, where).astype(np.int64)
        packed = parts[..., 0] << 16 | parts[..., 1] << 8 | parts[..., 2]
        red, green, blue = palette_color(BORDER)
        return np.where(
            packed == (red << 16 | green << 8 | blue), BORDER, np.where(packed == 255, 1 << 24, packed)
        )


def _class_pngs(files: Files) -> tuple[str, list[str]]:
    """What follows `SegmentationClass` in the name of the folder of class PNGs, and its PNGs."""
    for ending in ("", "PNG"):  # labelme2voc may have arrays in the first
        if found := [n for n in files.matching(".png") if f"/SegmentationClass{ending}/" in f"/{n}"]:
            return ending, found
    return "", []
