"""ADE20K: `*_seg.png` of 2016/2017 (with `*_atr.txt`) and 2020 (with JSON), and SceneParsing's class PNGs."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

import numpy as np

from ....errors import DataError
from ..annotation import AnnotatedImage, Options, Reader, SourceClass, readable
from ..files import Files
from ..pairs import split_of
from ..pixels import class_segments, named_segments, read_colours, read_values

_ROW = re.compile(r"^\s*(\d+)\s*#\s*(\d+)\s*#[^#]*#\s*([^#]*?)\s*#")


class Ade20k(Reader):
    """Whole objects; parts of objects are left out.

    Red / 10 · 256 + green is the class of a pixel, blue the object. A text or JSON beside the PNG names them.
    """

    name, title = "ade20k", "ADE20K"

    def __init__(self, files: Files, options: Options) -> None:
        super().__init__(files, options)
        self.names = [n for n in files.matching("_seg.png") if "_parts_" not in n]
        if not self.names:
            raise DataError("no *_seg.png here", where=files.where(files.only))
        names: dict[str, None] = {}
        for found, _ in readable(self._objects, self.names):
            names |= dict.fromkeys(found.values())
        self.classes = [SourceClass(name) for name in names]
        self.decisions.append("parts of objects are left out")
        self.decisions.append("ADE20K does not say which classes are stuff; `stuff` does")

    @classmethod
    def detect(cls, files: Files) -> str | None:
        """By a mask with its text or JSON."""
        names = set(files.names)
        for name in files.matching("_seg.png"):
            stem = name.removesuffix("_seg.png")
            if f"{stem}_atr.txt" in names or f"{stem}.json" in names:
                return name
        return None

    def _objects(self, mask: str) -> tuple[dict[int, str], bool]:
        """Names by class number (2020) or by the object's rank in the image (2016), and which of them."""
        stem = mask.removesuffix("_seg.png")
        where = self.files.where(f"{stem}_atr.txt")
        if self.files.has(f"{stem}_atr.txt"):
            rows = [_ROW.match(line) for line in self.files.text(f"{stem}_atr.txt").splitlines()]
            return {int(m[1]): m[3] for m in rows if m and int(m[2]) == 0}, False
        if not self.files.has(f"{stem}.json"):
            raise DataError("is missing; it names the objects", where=where, kind="missing-names")
        try:
            objects = self.files.json(f"{stem}.json")["annotation"]["object"]
            return {
                int(o["name_ndx"]): str(o["name"]) for o in objects if not int(o["parts"]["part_level"])
            }, True
        except (KeyError, TypeError, ValueError):
            what = "is not an annotation of ADE20K"
            raise DataError(what, where=self.files.where(f"{stem}.json"), kind="bad-json") from None

    def one(self, name: str) -> AnnotatedImage:
        stem, where = name.removesuffix("_seg.png"), self.files.where(name)
        names, by_class = self._objects(name)
        image = self.image(f"{PurePosixPath(stem).name}.jpg", str(PurePosixPath(name).parent), by_stem=True)
        red, green, blue = np.moveaxis(read_colours(self.files.path(name), where).astype(np.int32), 2, 0)
        classes = red // 10 * 256 + green
        # The text numbers objects by their rank among the values of blue, 0 (nothing) not counted.
        objects = sorted(set(np.unique(blue[classes > 0]).tolist()) - {0})
        rank = {value: k for k, value in enumerate(objects, 1)}
        ids, segments, unknown = named_segments(
            np.where(classes > 0, classes << 8 | blue, -1),
            lambda value: names.get(value >> 8 if by_class else rank.get(value & 255, 0)),
        )
        for value, pixels in unknown.items():
            what = f"class {value >> 8}, object {value & 255} has no name; its {pixels} pixels are void"
            self.faults.add("unknown-class", where, what)
        height, width = ids.shape
        shown = f"{PurePosixPath(stem).name}{image.suffix if image else '.jpg'}"
        return AnnotatedImage(shown, image, where, split_of(name), width, height, ids=ids, segments=segments)


class SceneParsing(Reader):
    """`annotations/training/ADE_train_*.png` with values 1 to 150, and `objectInfo150.txt`: all stuff."""

    name, title = "scene-parsing", "ADE20K SceneParsing"

    def __init__(self, files: Files, options: Options) -> None:
        super().__init__(files, options)
        info = next((n for n in files.names if n.endswith("objectInfo150.txt")), None)
        if info is None:
            raise DataError("no objectInfo150.txt, which names the classes", where=files.where(files.only))
        rows = [line.split("\t") for line in files.text(info).splitlines()]
        self._names = {int(r[0]): r[-1].strip() for r in rows if len(r) > 1 and r[0].strip().isdigit()}
        self.names = [n for n in files.matching(".png") if "/annotations/" in f"/{n}"]
        self.classes = [SourceClass(name, False, id=k) for k, name in self._names.items()]
        if not self.names or not self.classes:
            what = "names no classes" if self.names else "there are no PNGs in a folder annotations"
            raise DataError(what, where=files.where(info))
        self.decisions.append("there are no instances, so every class is stuff")

    @classmethod
    def detect(cls, files: Files) -> str | None:
        """By the list of classes."""
        return next((n for n in files.names if n.endswith("objectInfo150.txt")), None)

    def one(self, name: str) -> AnnotatedImage:
        path, where = PurePosixPath(name), self.files.where(name)
        ids, segments, unknown = class_segments(read_values(self.files.path(name), where), self._names, {0})
        for value, pixels in unknown.items():
            self.faults.add("unknown-class", where, f"class {value} has no name; {pixels} pixels are void")
        image = self.image(
            f"{path.stem}.jpg", str(path.parent).replace("annotations", "images", 1), by_stem=True
        )
        height, width = ids.shape
        shown = f"{path.stem}{image.suffix if image else '.jpg'}"
        return AnnotatedImage(shown, image, where, split_of(name), width, height, ids=ids, segments=segments)
