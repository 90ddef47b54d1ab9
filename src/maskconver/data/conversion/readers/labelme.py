"""labelme (and what writes its JSON, such as AnyLabeling): one JSON file per image."""

from __future__ import annotations

import math
import posixpath
from typing import Any

import numpy as np

from ....errors import DataError
from ..annotation import AnnotatedImage, Options, Shape, SourceClass, readable
from ..files import Files, plain_name
from ..geometry import box, ellipse, polygon
from ..tool import (
    NO_AREA,
    ToolReader,
    base64_bytes,
    class_name,
    first_with_head,
    group_id,
    is_crowd,
    items,
    mapping,
    pairs,
    png_mask,
    same_folder,
    size,
    split_of,
)

_AREAS = ("polygon", "rectangle", "circle", "mask", "rotation", "oriented_rectangle")
_NO_AREAS = ("point", "points", "line", "linestrip")
_IGNORE = ("__ignore__", "_background_")


class Labelme(ToolReader):
    """labelme's JSON.

    Shapes of one class with one group_id are one object. A mask shape is a PNG with its upper left corner at
    the first of its two points. Without a file, the image that is embedded in the JSON is taken. A shape with
    the flag `crowd` is a crowd. Classes stand in the order of `labels.txt` where there is one.
    """

    name = "labelme"
    title = "labelme"

    def __init__(self, files: Files, options: Options) -> None:
        super().__init__(files, options)
        self.names = files.matching(".json")
        contents = readable(files.json, self.names)
        rows = (mapping(row) for content in contents for row in items(mapping(content).get("shapes")))
        areas = (row.get("label") for row in rows if (row.get("shape_type") or "polygon") in _AREAS)
        named = dict.fromkeys(readable(class_name, areas))
        listed = [n for n in files.names if posixpath.basename(n).lower() in ("labels.txt", "classes.txt")]
        order = [line.strip() for line in files.text(listed[0]).splitlines()] if listed else []
        names = [n for n in dict.fromkeys(order) if n and n not in _IGNORE] + [
            n for n in named if n not in order
        ]
        self.classes = [SourceClass(n) for n in names]
        if any(n in _IGNORE for n in named):
            self.decisions.append("shapes named __ignore__ or _background_ are left out, as labelme does")

    @classmethod
    def detect(cls, files: Files) -> str | None:
        shapes = r'"shapes"\s*:\s*\[|"imageData"\s*:|"shape_type"\s*:'
        name = first_with_head(files, ".json", shapes, refuse=r'"shape_attributes"|"_via_')
        return f"{name} holds labelme's shapes" if name else None

    def one(self, name: str) -> AnnotatedImage:
        content = self.files.json(name)
        where = self.files.where(name)
        if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
            raise DataError("is not a labelme file: it has no list `shapes`", kind="other-json")
        said = content.get("imagePath")
        said = said if isinstance(said, str) and plain_name(said) else ""
        image = said or posixpath.splitext(posixpath.basename(name))[0]
        path, data = None, None
        try:
            path = self.image(image, same_folder(name), by_stem=not said)
        except DataError as error:
            if not content.get("imageData") or error.kind != "missing-image":
                raise
            data = base64_bytes(content["imageData"], "`imageData`")
        raised = [k for k, v in mapping(content.get("flags")).items() if v is True]
        return AnnotatedImage(
            name=posixpath.join(posixpath.dirname(name), posixpath.basename(plain_name(image))),
            path=path,
            data=data,
            where=where,
            split=split_of(name),
            width=size(content.get("imageWidth")),
            height=size(content.get("imageHeight")),
            shapes=self.shapes(
                ((f"shape {n}", s) for n, s in enumerate(content["shapes"], 1)), where, self._shape
            ),
            info={"flags": raised} if raised else {},
        )

    def _shape(self, row: dict[str, Any]) -> Shape | str | None:
        kind = row.get("shape_type") or "polygon"
        if kind in _NO_AREAS:
            return NO_AREA
        if kind not in _AREAS:
            raise DataError(f'the shape type "{kind}" is not known', kind="unknown-shape")
        name = class_name(row.get("label"))
        if name in _IGNORE:
            return "ignored-shapes"
        score = row.get("score")
        shape = Shape(
            name,
            group=group_id(row.get("group_id")),
            crowd=is_crowd(row.get("flags")),
            score=float(score) if isinstance(score, int | float) and 0 <= score <= 1 else None,
        )
        if kind == "polygon":
            shape.polygons = [polygon(row["points"])]
            return shape
        if kind in ("rotation", "oriented_rectangle"):
            shape.polygons = [polygon(row["points"], 4)]
            return shape
        at = pairs(row["points"], 2)
        if kind == "circle":
            radius = math.dist(at[0], at[1])
            shape.polygons = [ellipse(at[0, 0], at[0, 1], radius, y_radius=radius)]
            return shape
        (x0, y0), (x1, y1) = at.min(0), at.max(0)
        if kind == "rectangle":
            shape.polygons = [box(x0, y0, x1 - x0, y1 - y0)]
            return shape
        shape.mask = png_mask(base64_bytes(row["mask"], "`mask`"))
        shape.offset = (int(x0), int(y0))
        expected = (int(y1) - int(y0) + 1, int(x1) - int(x0) + 1)
        if np.abs(np.subtract(shape.mask.shape, expected)).max() > 1:
            found = "×".join(map(str, shape.mask.shape[::-1]))
            what = f"its mask has {found} pixels, its two points span {expected[1]}×{expected[0]}"
            raise DataError(what, kind="broken-mask")
        return shape
