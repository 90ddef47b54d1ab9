"""COCO panoptic data of any layout, and panopticapi's PNGs of two channels (category, object)."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from ....core.categories import Categories
from ....core.panoptic_png import read_panoptic_png
from ....errors import DataError, one_line
from ....io.panoptic_json import read_panoptic_json
from ....io.panoptic_rows import Defect
from ..annotation import AnnotatedImage, IdSegment, Options, Reader, SourceClass
from ..files import Files
from .coco import PANOPTIC, first_outline, looks_like_coco, near, split_of


class CocoPanoptic(Reader):
    """JSON files with `segments_info` and the PNGs they name."""

    name: ClassVar[str] = "coco-panoptic"
    title: ClassVar[str] = "COCO panoptic"

    def __init__(self, files: Files, options: Options) -> None:
        super().__init__(files, options)
        self._files = []
        for name in files.matching(".json"):
            if not (looks_like_coco(files, name) and first_outline(files, name) == PANOPTIC):
                continue
            defects: list[Defect] = []
            try:
                found = read_panoptic_json(files.path(name), name=files.where(name), defects=defects)
            except DataError as error:
                self.faults.reject(error, files.where(name))
                continue
            for defect in defects:
                if defect.severity == "error":
                    self.faults.add(defect.kind, defect.file, defect.message)
            self._files.append((name, found))
        if not self._files:
            raise DataError("no COCO panoptic file here", where=files.where(files.only))
        self.classes = _classes(c for _, f in self._files for c in f.own_categories)
        self.count = sum(len(f) for _, f in self._files)

    @classmethod
    def detect(cls, files: Files) -> str | None:
        for name in files.matching(".json"):
            if looks_like_coco(files, name) and first_outline(files, name) == PANOPTIC:
                return f"{name} has annotations with segments_info"
        return None

    def images(self) -> Iterator[AnnotatedImage]:
        for name, file in self._files:
            rows = {row.id: row for row in file.images}
            split = split_of(name)
            for k, number in enumerate(file.image_ids):
                png = file.png_names[k]
                row = rows.get(number)
                where = f"{self.files.where(name)}, {png}"
                try:
                    ids = read_panoptic_png(self.files.path(self._png(name, png, split)), where)
                    stem = row.file_name if row and row.file_name else png
                    path = self.image(stem, *near(name, split), by_stem=row is None)
                except (DataError, OSError) as error:
                    known = error if isinstance(error, DataError) else DataError(one_line(error))
                    self.faults.reject(known, where)
                    continue
                table = file.table(k)
                segments = [
                    IdSegment(int(i), file.categories[int(label)].name, bool(crowd))
                    for i, label, crowd in zip(table.ids, table.labels, table.crowd)
                ]
                size = (row.width or None, row.height or None) if row else (None, None)
                yield AnnotatedImage(stem, path, where, split, *size, ids=ids, segments=segments)

    def _png(self, name: str, png: str, split: str) -> str:
        """The PNG of an annotation: in the folder of the JSON's name, or where data sets have it."""
        folder, stem = posixpath.split(posixpath.splitext(name)[0])
        short = stem.removeprefix("panoptic_")
        tops = list(dict.fromkeys((folder, posixpath.dirname(folder), "")))
        below = [stem, f"panoptic/{short}", f"panoptic/{split}", f"panoptic_{short}", "panoptic", "png", ""]
        for top in tops:
            for part in below:
                found = posixpath.normpath(posixpath.join(top, part, png))
                if self.files.has(found):  # so nothing outside the source
                    return found
        raise DataError(f"there is no PNG {png}", kind="missing-png")


class TwoChannels(Reader):
    """PNGs with the category id in red and the object's number in green, 0 for stuff (panopticapi).

    Class names come from a JSON list of categories with `isthing` in the source, else they are COCO's.
    """

    name: ClassVar[str] = "panoptic-2ch"
    title: ClassVar[str] = "panopticapi's PNGs of two channels"

    def __init__(self, files: Files, options: Options) -> None:
        super().__init__(files, options)
        found = files.matching(".png")
        named = [n for n in found if "2ch" in n]  # photographs may lack blue, too
        self._names = [n for n in named or found if _has_two_channels(files, n)]
        if not self._names:
            raise DataError("no PNG with two channels here", where=files.where(files.only))
        lists = [n for n in files.names if n.lower().endswith(".json") and _is_category_list(files, n)]
        if lists:
            categories = Categories.from_json(files.json(lists[0]))
            self.decisions.append(f"the categories are those of {lists[0]}")
        else:
            categories = Categories.coco()
            self.decisions.append("the categories are COCO's, as the source has no list of them")
        self._categories = {c.id: c.name for c in categories}
        self.classes = _classes(categories)
        self.count = len(self._names)
        self._photos: dict[str, list[str]] = {}
        for photo in set(files.image_names()).difference(self._names):
            self._photos.setdefault(PurePosixPath(photo).stem, []).append(photo)

    @classmethod
    def detect(cls, files: Files) -> str | None:
        names = files.matching(".png")
        if any(looks_like_coco(files, n) for n in files.matching(".json")):
            return None  # a JSON says more
        first = next((n for n in names[:20] if "2ch" in files.where(n) and _has_two_channels(files, n)), None)
        return None if first is None else f"{first} has two channels"

    def images(self) -> Iterator[AnnotatedImage]:
        for name in self._names:
            where = self.files.where(name)
            try:
                yield self._one(name, where)
            except (DataError, OSError, SyntaxError, ValueError) as error:
                known = error if isinstance(error, DataError) else DataError(one_line(error))
                self.faults.reject(known, where)

    def _one(self, name: str, where: str) -> AnnotatedImage:
        stem = PurePosixPath(name).stem
        photos = self._photos.get(stem, [])
        same = [p for p in photos if PurePosixPath(p).parent.name == PurePosixPath(name).parent.name]
        photo = (same or photos or [f"{stem}.jpg"])[0]
        path = self.image(photo, posixpath.dirname(name))
        with Image.open(self.files.path(name)) as file:
            pixels = np.asarray(file.convert("RGB"), np.int32)
        keys = pixels[..., 0] << 8 | pixels[..., 1]
        found, ids = np.unique(keys, return_inverse=True)
        numbers = np.arange(1, len(found) + 1)
        numbers[found >> 8 == 0] = 0
        segments = []
        for number, key in zip(numbers.tolist(), found.tolist()):
            if number:
                category = self._categories.get(key >> 8, f"category {key >> 8}")
                segments.append(IdSegment(number, category))
        ids = numbers[ids.reshape(keys.shape)].astype(np.int32)
        return AnnotatedImage(
            path.name if path else f"{stem}.png", path, where, split_of(name), ids=ids, segments=segments
        )


def _classes(categories: Any) -> list[SourceClass]:
    found = {c.name: SourceClass(c.name, c.is_thing, c.color, c.id) for c in reversed(list(categories))}
    return list(reversed(found.values()))


def _is_category_list(files: Files, name: str) -> bool:
    head = files.head(name).lstrip("\ufeff \r\n\t")
    return head.startswith("[") and '"isthing"' in head and '"name"' in head


def _has_two_channels(files: Files, name: str) -> bool:
    try:
        with Image.open(files.path(name)) as image:
            if image.mode not in ("RGB", "RGBA"):
                return False
            return not np.asarray(image)[..., 2].any()
    except (OSError, SyntaxError, ValueError):
        return False
