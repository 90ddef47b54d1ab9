"""CVAT for images 1.1: one XML for a task or project."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
from numpy.typing import NDArray

from ....errors import DataError
from ..annotation import AnnotatedImage, Options, Shape, SourceClass
from ..files import Files
from ..geometry import box, ellipse, polygon
from ..tool import (
    NO_AREA,
    ToolReader,
    class_name,
    first_with_head,
    floats,
    hex_color,
    is_crowd,
    runs_to_mask,
    same_folder,
    size,
    split_of,
    turned,
    with_head,
    xml_elements,
)

_AREAS = ("polygon", "mask", "box", "ellipse")
_NO_AREAS = ("polyline", "points", "cuboid", "skeleton", "tag")
_FORM = r"<annotations>[\s\S]*(<meta>|<image )"


class Cvat(ToolReader):
    """CVAT's own XML for images.

    Shapes of one class with one group are one object; a higher z-order lies on top; a shape with the
    attribute `is_crowd` is a crowd. Subsets of a project become splits. The file is read image by image.
    """

    name = "cvat"
    title = "CVAT for images 1.1"

    def __init__(self, files: Files, options: Options) -> None:
        super().__init__(files, options)
        self._names = with_head(files, ".xml", _FORM) or files.matching(".xml")
        named: dict[str, SourceClass] = {}
        for name in self._names:
            try:
                images, tracks = _count(files.path(name))
                if tracks and not images:
                    raise DataError(
                        "holds tracks of a video, not images",
                        where=files.where(name),
                        fix='export it from CVAT as "CVAT for images 1.1"',
                        kind="video",
                    )
                self.count += images
                for meta in xml_elements(files, name, "meta"):
                    for c in _classes(meta):
                        named.setdefault(c.name, c)
                    break
            except (DataError, OSError) as error:
                if len(self._names) == 1 and isinstance(error, DataError) and error.kind == "video":
                    raise
        self.classes = list(named.values()) or [SourceClass(n) for n in dict.fromkeys(self._used())]

    @classmethod
    def detect(cls, files: Files) -> str | None:
        name = first_with_head(files, ".xml", _FORM)
        return f"{name} is CVAT's XML" if name else None

    def images(self) -> Iterator[AnnotatedImage]:
        for name in self._names:
            where = self.files.where(name)
            found = False
            try:
                for element in xml_elements(self.files, name, "image"):
                    found = True
                    at = f"{where}, image {element.get('id', '')} ({element.get('name', '')})"
                    try:
                        yield self._one(name, element, at)
                    except DataError as error:
                        self.faults.reject(error, at)
                if not found:
                    raise DataError("has no images, or tracks of a video", kind="no-images")
            except DataError as error:
                self.faults.reject(error, where)

    def _one(self, name: str, element: ET.Element, where: str) -> AnnotatedImage:
        subset = element.get("subset", "").strip()
        stem = posixpath.splitext(name)[0]
        image = element.get("name", "")
        folders = [
            same_folder(name, "images", subset),
            same_folder(name, "images"),
            same_folder(name, subset),
        ]
        return AnnotatedImage(
            name=posixpath.join(subset, image.replace("\\", "/").lstrip("/")),
            path=self.image(image, *dict.fromkeys(f.rstrip("/") for f in folders), same_folder(name)),
            where=where,
            split=split_of(subset) or (subset if subset.lower() != "default" else "") or split_of(stem),
            width=size(element.get("width")),
            height=size(element.get("height")),
            shapes=self.shapes(
                ((f"{row.tag} {n}", row) for n, row in enumerate(element, 1)), where, self._shape
            ),
        )

    def _shape(self, row: ET.Element) -> Shape | str | None:
        if row.tag in _NO_AREAS:
            return NO_AREA
        if row.tag not in _AREAS:
            raise DataError(f"<{row.tag}> is not known", kind="unknown-shape")
        attributes = {a.get("name", ""): a.text or "" for a in row.iter("attribute")}
        shape = Shape(
            class_name(row.get("label")),
            layer=int(row.get("z_order", "0")),
            group=row.get("group_id") if row.get("group_id") not in (None, "", "0") else None,
            crowd=is_crowd(attributes),
        )

        def values(*keys: str) -> list[float]:
            return floats(row.get(key) for key in keys)

        (angle,) = floats([row.get("rotation", "0")])
        if row.tag == "polygon":
            corners = [p for p in row.get("points", "").split(";") if p.strip()]
            shape.polygons = [polygon([floats(p.split(",")) for p in corners])]
        elif row.tag == "box":
            x0, y0, x1, y1 = values("xtl", "ytl", "xbr", "ybr")
            middle = (x0 + x1) / 2, (y0 + y1) / 2
            shape.polygons = [turned(box(x0, y0, x1 - x0, y1 - y0), middle, angle)]
        elif row.tag == "ellipse":
            cx, cy, rx, ry = values("cx", "cy", "rx", "ry")
            shape.polygons = [ellipse(cx, cy, rx, y_radius=ry, angle=angle)]
        else:
            shape.mask, shape.offset = _mask(row)
        return shape

    def _used(self) -> Iterator[str]:
        for name in self._names:
            try:
                for element in xml_elements(self.files, name, "image"):
                    labels = (row.get("label", "").strip() for row in element if row.tag in _AREAS)
                    yield from (" ".join(label.split()) for label in labels if label)
            except DataError:
                continue


def _mask(row: ET.Element) -> tuple[NDArray[np.bool_], tuple[int, int]]:
    try:
        left, top, width, height = (int(float(row.get(k, ""))) for k in ("left", "top", "width", "height"))
        counts = [int(c) for c in row.get("rle", "").split(",")]
    except ValueError:
        raise DataError("its run lengths or its box are not whole numbers", kind="broken-mask") from None
    return runs_to_mask(counts, height, width), (left, top)


def _classes(meta: ET.Element) -> Iterator[SourceClass]:
    for label in meta.iter("label"):
        name = " ".join((label.findtext("name") or "").split())
        if (
            name
            and (label.findtext("type") or "any").strip() not in _NO_AREAS
            and label.find("parent") is None
        ):
            yield SourceClass(name, color=hex_color(label.findtext("color")))


def _count(path: Path) -> tuple[int, int]:
    """How many images and how many tracks there are."""
    images = tracks = 0
    before = b""
    with path.open("rb") as file:
        while data := file.read(1 << 20):
            text = (before + data).replace(b"\0", b"")  # of UTF-16
            images += text.count(b"<image ")
            tracks += text.count(b"<track ")
            before = data[-13:] if not data.endswith((b"<image ", b"<track ")) else b""
    return images, tracks
