"""Supervisely: a project with `meta.json` and, for each data set, the folders `img` and `ann`."""

from __future__ import annotations

import posixpath
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ....core.files import IMAGE_SUFFIXES, MAX_PIXELS
from ....errors import DataError
from ..annotation import AnnotatedImage, Options, Shape, SourceClass, readable
from ..files import Files
from ..geometry import box, polygon
from ..tool import (
    NO_AREA,
    ToolReader,
    base64_bytes,
    class_name,
    group_id,
    hex_color,
    items,
    mapping,
    pairs,
    png_mask,
    size,
    split_of,
)

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
        self.names = [n for n in files.matching(".json") if posixpath.basename(posixpath.dirname(n)) == "ann"]
        named: dict[str, SourceClass] = {}
        metas = [n for n in files.names if posixpath.basename(n) == "meta.json"]
        for name in metas:
            for row in map(mapping, items(mapping(files.json(name)).get("classes"))):
                title = " ".join(str(row.get("title") or "").split())
                if title and row.get("shape") not in _NO_AREAS:
                    named.setdefault(title, SourceClass(title, color=hex_color(row.get("color"))))
        if not metas:
            self.decisions.append("there is no meta.json, so the classes are those of the objects")
            contents = readable(files.json, self.names)
            rows = (mapping(row) for content in contents for row in items(mapping(content).get("objects")))
            titles = readable(class_name, (row.get("classTitle") for row in rows))
            named = {title: SourceClass(title) for title in titles}
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

    def one(self, name: str) -> AnnotatedImage:
        content = self.files.json(name)
        where = self.files.where(name)
        if not isinstance(content, dict) or not isinstance(content.get("objects"), list):
            raise DataError(
                "is not an annotation of Supervisely: it has no list `objects`", kind="other-json"
            )
        folder = posixpath.join(posixpath.dirname(posixpath.dirname(name)), "img")
        image = posixpath.splitext(posixpath.basename(name))[0]  # a.jpg.json, in older exports a.json
        has_ending = posixpath.splitext(image)[1].lower() in IMAGE_SUFFIXES
        stated = mapping(content.get("size"))
        path = self.image(image, folder, by_stem=not has_ending)
        return AnnotatedImage(
            name=posixpath.join(folder, path.name if path else image),
            path=path,
            where=where,
            split=split_of(name),
            width=size(stated.get("width")),
            height=size(stated.get("height")),
            shapes=self.shapes(
                ((f"object {mapping(o).get('id', n)}", o) for n, o in enumerate(content["objects"], 1)),
                where,
                self._shape,
            ),
        )

    def _shape(self, row: dict[str, Any]) -> Shape | str | None:
        kind = row.get("geometryType") or ("bitmap" if row.get("bitmap") else "polygon")
        if kind in _NO_AREAS:
            return NO_AREA
        shape = Shape(class_name(row.get("classTitle")), group=group_id(row.get("instance")))
        if kind in ("bitmap", "alpha_mask"):
            bitmap = row.get("bitmap") or row[kind]
            ((x, y),) = polygon(bitmap["origin"], 1)
            shape.mask, shape.offset = png_mask(_unpacked(bitmap["data"])), (int(x), int(y))
        elif kind == "rectangle":
            corners = pairs(row["points"]["exterior"], 2)
            (x0, y0), (x1, y1) = corners.min(0), corners.max(0)
            shape.polygons = [box(x0, y0, x1 - x0 + 1, y1 - y0 + 1)]
        elif kind == "polygon":
            outline = polygon(row["points"]["exterior"])
            holes = [polygon(hole) for hole in row["points"].get("interior") or []]
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
        raise DataError(f"spans {width}×{height} pixels", kind="bad-polygon")
    canvas = Image.new("1", (width, height))
    draw = ImageDraw.Draw(canvas)
    for part, value in ((outline, 1), *((hole, 0) for hole in holes)):
        draw.polygon([(int(x), int(y)) for x, y in part - low], fill=value, outline=value)
    return np.asarray(canvas).astype(bool), (int(low[0]), int(low[1]))
