"""Supervisely: a project with `meta.json` and, for each data set, the folders `img` and `ann`."""

from __future__ import annotations

import posixpath
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ....core.files import IMAGE_SUFFIXES, MAX_PIXELS
from ....errors import DataError
from ..annotation import AnnotatedImage, Options, Shape, SourceClass
from ..files import Files
from .tool import ToolReader, base64_bytes, box, class_name, hex_color, png_mask, points, size, split_of

_NO_AREAS = ("point", "line", "graph", "cuboid", "cuboid_2d", "keypoint")
_MOST_BYTES = 1 << 26


class Supervisely(ToolReader):
    """A project of Supervisely.

    Bitmaps are PNGs, packed by zlib, in base64. Corners of polygons and rectangles are pixels and belong to
    the object; the edges of holes do not, as in Supervisely. Objects with one `instance` key are one object.
    Data sets called train, val or test become splits.
    """

    name = "supervisely"
    title = "Supervisely"

    def __init__(self, files: Files, options: Options) -> None:
        super().__init__(files, options)
        self._names = [
            n for n in files.matching(".json") if posixpath.basename(posixpath.dirname(n)) == "ann"
        ]
        self.count = len(self._names)
        named: dict[str, SourceClass] = {}
        metas = [n for n in files.names if posixpath.basename(n) == "meta.json"]
        for name in metas:
            content = files.json(name)
            rows = content.get("classes") if isinstance(content, dict) else None
            for row in rows if isinstance(rows, list) else []:
                title = " ".join(str(row.get("title") or "").split()) if isinstance(row, dict) else ""
                if title and row.get("shape") not in _NO_AREAS:
                    named.setdefault(title, SourceClass(title, color=hex_color(row.get("color"))))
        if not metas:
            self.decisions.append("there is no meta.json, so the classes are those of the objects")
            for name in self._names:
                for title in _titles(files, name):
                    named.setdefault(title, SourceClass(title))
        self.classes = list(named.values())

    @classmethod
    def detect(cls, files: Files) -> str | None:
        folders = {posixpath.dirname(n) for n in files.matching(".json")}
        for ann in sorted(f for f in folders if posixpath.basename(f) == "ann"):
            beside = posixpath.dirname(ann)
            metas = [n for n in files.names if posixpath.basename(n) == "meta.json"]
            if metas or any(n.startswith(posixpath.join(beside, "img") + "/") for n in files.names):
                return f"{metas[0] if metas else posixpath.join(beside, 'img')} and {ann}"
        return None

    def images(self) -> Iterator[AnnotatedImage]:
        for name in self._names:
            try:
                yield self._one(name)
            except DataError as error:
                self.faults.reject(error, self.files.where(name))

    def _one(self, name: str) -> AnnotatedImage:
        content = self.files.json(name)
        where = self.files.where(name)
        if not isinstance(content, dict) or not isinstance(content.get("objects"), list):
            raise DataError("is no annotation of Supervisely: it has no list `objects`", kind="other-json")
        folder = posixpath.join(posixpath.dirname(posixpath.dirname(name)), "img")
        image = posixpath.splitext(posixpath.basename(name))[0]  # a.jpg.json, in older exports a.json
        has_ending = posixpath.splitext(image)[1].lower() in IMAGE_SUFFIXES
        stated = content.get("size") if isinstance(content.get("size"), dict) else {}
        path = self.image(image, folder, by_stem=not has_ending)
        return AnnotatedImage(
            name=posixpath.join(folder, path.name if path else image),
            path=path,
            where=where,
            split=split_of(name),
            width=size(stated.get("width")),
            height=size(stated.get("height")),
            shapes=self.shapes(
                ((f"object {_id(o, n)}", o) for n, o in enumerate(content["objects"], 1)), where, self._shape
            ),
        )

    def _shape(self, row: dict[str, Any]) -> Shape | None:
        kind = row.get("geometryType") or ("bitmap" if row.get("bitmap") else "polygon")
        if kind in _NO_AREAS:
            return self.no_area()
        shape = Shape(class_name(row.get("classTitle")), group=row.get("instance"))
        if kind in ("bitmap", "alpha_mask"):
            bitmap = row.get("bitmap") or row[kind]
            (x, y) = points([bitmap["origin"]], least=1)[0]
            shape.mask, shape.offset = png_mask(_unpacked(bitmap["data"])), (int(x), int(y))
        elif kind == "rectangle":
            corners = points(row["points"]["exterior"], least=2)
            (x0, y0), (x1, y1) = corners.min(0), corners.max(0)
            shape.polygons = [box(x0, y0, x1 + 1, y1 + 1)]
        elif kind == "polygon":
            outline = points(row["points"]["exterior"])
            holes = [points(hole) for hole in row["points"].get("interior") or []]
            if all(np.array_equal(p, np.floor(p)) for p in (outline, *holes)):
                shape.mask, shape.offset = _filled(outline, holes)
            else:
                shape.polygons, shape.rule = [outline, *holes], "even-odd"
        else:
            raise DataError(f'the geometry "{kind}" is not known', kind="unknown-shape")
        return shape


def _unpacked(text: Any) -> bytes:
    """The PNG of a bitmap."""
    inflate = zlib.decompressobj()
    try:
        data = inflate.decompress(base64_bytes(text, "its bitmap"), _MOST_BYTES)
    except zlib.error as error:
        raise DataError(f"its bitmap is not packed by zlib ({error})", kind="broken-mask") from None
    if inflate.unconsumed_tail:
        raise DataError(f"its bitmap has more than {_MOST_BYTES >> 20} MB", kind="broken-mask")
    return data


def _filled(
    outline: NDArray[np.float64], holes: list[NDArray[np.float64]]
) -> tuple[NDArray[np.bool_], tuple[int, int]]:
    """The pixels of a polygon with its edge, without its holes and their edges; and where they begin."""
    low, high = outline.min(0).astype(int), outline.max(0).astype(int)
    width, height = (high - low + 1).tolist()
    if width * height > MAX_PIXELS:
        raise DataError(f"spans {width}×{height} pixels", kind="bad-coordinate")
    canvas = Image.new("1", (width, height))
    draw = ImageDraw.Draw(canvas)
    for value, polygon in ((1, outline), *((0, hole) for hole in holes)):
        draw.polygon([(int(x), int(y)) for x, y in polygon - low], fill=value, outline=value)
    return np.asarray(canvas).astype(bool), (int(low[0]), int(low[1]))


def _id(row: Any, position: int) -> Any:
    return row.get("id", position) if isinstance(row, dict) else position


def _titles(files: Files, name: str) -> Iterator[str]:
    try:
        content = files.json(name)
    except DataError:
        return
    rows = content.get("objects") if isinstance(content, dict) else None
    for row in rows if isinstance(rows, list) else []:
        try:
            yield class_name(row.get("classTitle") if isinstance(row, dict) else None)
        except DataError:
            continue
