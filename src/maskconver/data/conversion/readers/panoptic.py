"""COCO panoptic data of any layout, and panopticapi's PNGs of two channels (category, object)."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import ClassVar

import numpy as np
from PIL import Image

from ....core.categories import Categories
from ....errors import DataError
from ..annotation import AnnotatedImage, Options, Reader
from ..files import Files, stem_of
from ..pixels import named_segments, read_colours
from ..ready import PanopticPngs, source_classes
from ..splits import folder_split
from .coco import PANOPTIC, first_outline, looks_like_coco, near, split_of


class CocoPanoptic(Reader):
    """JSON files with `segments_info` and the PNGs they name."""

    name: ClassVar[str] = "coco-panoptic"
    title: ClassVar[str] = "COCO panoptic"

    def __init__(self, files: Files, options: Options) -> None:
        super().__init__(files, options)
        self._jsons = []
        for name in files.matching(".json"):
            if looks_like_coco(files, name) and first_outline(files, name) == PANOPTIC:
                try:
                    self._jsons.append(PanopticPngs(files, name, _folders(name), faults=self.faults))
                except DataError as error:
                    self.faults.reject(error, files.where(name))
        if not self._jsons:
            raise DataError("no COCO panoptic file here", where=files.where(files.only))
        self.classes = list({c.name: c for pngs in self._jsons[::-1] for c in pngs.classes[::-1]}.values())[
            ::-1
        ]
        self.count = sum(len(pngs.file) for pngs in self._jsons)

    @classmethod
    def detect(cls, files: Files) -> str | None:
        for name in files.matching(".json"):
            if looks_like_coco(files, name) and first_outline(files, name) == PANOPTIC:
                return f"{name} has annotations with segments_info"
        return None

    def images(self) -> Iterator[AnnotatedImage]:
        for pngs in self._jsons:
            rows = {row.id: row for row in pngs.file.images}
            split = split_of(pngs.name)
            for k, (number, png) in enumerate(zip(pngs.file.image_ids, pngs.file.png_names)):
                row = rows.get(number)
                where = f"{self.files.where(pngs.name)}, {png}"
                try:
                    ids, segments = pngs.read(k)
                    stem = row.file_name if row and row.file_name else png
                    path = self.image(stem, *near(pngs.name, split), by_stem=row is None)
                except DataError as error:
                    self.faults.reject(error, where)
                    continue
                size = (row.width or None, row.height or None) if row else (None, None)
                yield AnnotatedImage(stem, path, where, split, *size, ids=ids, segments=segments)


def _folders(name: str) -> list[str]:
    """Where the PNGs of a JSON may lie: in the folder of its name, or where data sets have them."""
    folder, stem = posixpath.split(posixpath.splitext(name)[0])
    short = stem.removeprefix("panoptic_")
    below = [
        stem,
        f"panoptic/{short}",
        f"panoptic/{split_of(name)}",
        f"panoptic_{short}",
        "panoptic",
        "png",
        "",
    ]
    tops = dict.fromkeys((folder, posixpath.dirname(folder), ""))
    return [posixpath.join(top, part) for top in tops for part in below]


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
        self.names = [n for n in named or found if _has_two_channels(files, n)]
        if not self.names:
            raise DataError("no PNG with two channels here", where=files.where(files.only))
        lists = [n for n in files.names if n.lower().endswith(".json") and _is_category_list(files, n)]
        if lists:
            categories = Categories.from_json(files.json(lists[0]))
            self.decisions.append(f"the categories come from {lists[0]}")
        else:
            categories = Categories.coco()
            self.decisions.append("the categories are COCO's, as the source has no list of them")
        self._categories = {c.id: c.name for c in categories}
        self.classes = source_classes(categories)
        self._photos: dict[str, list[str]] = {}
        for photo in set(files.image_names()).difference(self.names):
            self._photos.setdefault(stem_of(photo), []).append(photo)
        self._splits = {folder_split(photo) for photos in self._photos.values() for photo in photos} - {""}

    @classmethod
    def detect(cls, files: Files) -> str | None:
        names = files.matching(".png")
        if any(looks_like_coco(files, n) for n in files.matching(".json")):
            return None  # a JSON says more
        first = next((n for n in names[:20] if "2ch" in files.where(n) and _has_two_channels(files, n)), None)
        return None if first is None else f"{first} has two channels"

    def one(self, name: str) -> AnnotatedImage:
        where = self.files.where(name)
        stem = PurePosixPath(name).stem
        photos = self._photos.get(stem_of(name), [])
        if (own := folder_split(name)) in self._splits:  # not one of another split, of the same name
            photos = [p for p in photos if folder_split(p) in ("", own)]
        same = [p for p in photos if PurePosixPath(p).parent.name == PurePosixPath(name).parent.name]
        photo = (same or photos or [f"{stem}.jpg"])[0]
        path = self.image(photo, posixpath.dirname(name))
        pixels = read_colours(self.files.path(name), where).astype(np.int32)
        keys = pixels[..., 0] << 8 | pixels[..., 1]
        ids, segments, _ = named_segments(
            np.where(keys < 256, -1, keys), lambda key: self._categories.get(key >> 8, f"category {key >> 8}")
        )
        return AnnotatedImage(
            path.name if path else f"{stem}.png", path, where, split_of(name), ids=ids, segments=segments
        )


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
