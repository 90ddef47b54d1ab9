"""VGG Image Annotator, versions 1 and 2: one JSON (or CSV) for all images."""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

from ....errors import DataError
from ..annotation import AnnotatedImage, Options, Shape, SourceClass, readable
from ..files import Files, plain_name
from ..geometry import box, ellipse, polygon
from ..tool import (
    NO_AREA,
    ToolReader,
    class_name,
    first_with_head,
    is_crowd,
    items,
    mapping,
    number,
    same_folder,
    split_of,
    with_head,
)

_JSON = r'"_via_(settings|img_metadata)"|"shape_attributes"\s*:|"filename"\s*:[\s\S]*"regions"\s*:'
_CSV = r"region_shape_attributes"
_USUAL = ("class", "label", "category", "name", "type", "object")
_ANY = "object"


class Via(ToolReader):
    """VIA's annotations: the JSON and CSV exports, and saved projects.

    The class is the value of one attribute of the regions: what `class_attribute` names, else the only
    one there is, else the only one that is called class, label, category, name, type or object.
    """

    name = "via"
    title = "VIA"

    def __init__(self, files: Files, options: Options) -> None:
        super().__init__(files, options)
        names = with_head(files, ".json", _JSON) or with_head(files, ".csv", _CSV)
        self._rows = [(n, row) for n in names or files.matching(".json", ".csv") for row in self._read(n)]
        self.count = len(self._rows)
        regions = [region for _, row in self._rows for region in _regions(row)]
        self._attribute = self._choose(regions)
        self.classes = [SourceClass(n) for n in dict.fromkeys(readable(self._class, regions))]

    @classmethod
    def detect(cls, files: Files) -> str | None:
        name = first_with_head(files, ".json", _JSON) or first_with_head(files, ".csv", _CSV)
        return f"{name} holds VIA's regions" if name else None

    def images(self) -> Iterator[AnnotatedImage]:
        for name, row in self._rows:
            where = self.files.where(name)
            try:
                image = row.get("filename")
                if not isinstance(image, str) or not plain_name(image):
                    raise DataError("an entry names no image", where=where, kind="missing-image")
                where = f"{where}, {image}"
                if not isinstance(row.get("regions"), dict | list):
                    raise DataError("its regions are no list", kind="bad-entry")
                path = self.image(image, same_folder(name))
                if (
                    path
                    and isinstance(row.get("size"), int)
                    and row["size"] not in (-1, 0, path.stat().st_size)
                ):
                    self.faults.note("file-sizes-changed-since-labelling")
                yield AnnotatedImage(
                    name=plain_name(image),
                    path=path,
                    where=where,
                    split=split_of(name),
                    shapes=self.shapes(
                        ((f"region {n}", r) for n, r in enumerate(_regions(row))), where, self._shape
                    ),
                )
            except DataError as error:
                self.faults.reject(error, where)

    def _shape(self, region: dict[str, Any]) -> Shape | str | None:
        at = region["shape_attributes"]
        kind = at["name"]

        def value(key: str) -> float:
            return number(at.get(key))

        if kind in ("polygon", "polyline"):
            xs, ys = at["all_points_x"], at["all_points_y"]
            if len(xs) != len(ys):
                raise DataError(f"has {len(xs)} x and {len(ys)} y", kind="wrong-counts")
            if kind == "polyline" and (len(xs) < 4 or (xs[0], ys[0]) != (xs[-1], ys[-1])):
                return NO_AREA
            outline = polygon(list(zip(xs, ys)))
        elif kind == "rect":
            outline = box(value("x"), value("y"), value("width"), value("height"))
        elif kind == "circle":
            outline = ellipse(value("cx"), value("cy"), value("r"), y_radius=value("r"))
        elif kind == "ellipse":
            angle = math.degrees(value("theta")) if "theta" in at else 0.0
            outline = ellipse(value("cx"), value("cy"), value("rx"), y_radius=value("ry"), angle=angle)
        elif kind == "point":
            return NO_AREA
        else:
            raise DataError(f'the shape "{kind}" is not known', kind="unknown-shape")
        return Shape(self._class(region), polygons=[outline], crowd=is_crowd(_attributes(region)))

    def _choose(self, regions: list[Any]) -> str:
        used: Counter[str] = Counter()
        for region in regions:
            used.update(k for k, v in _attributes(region).items() if v not in ("", {}, None))
        said = self.options.class_attribute
        names = ", ".join(used)
        if said:
            if said not in used:
                raise DataError(
                    f'no region has the attribute "{said}"', fix=f"there are: {names}" if names else ""
                )
            return said
        if not used:
            self.decisions.append(f'no region has an attribute, so all are of one class, "{_ANY}"')
            return ""
        usual = [k for k in used if k.lower() in _USUAL]
        chosen = list(used) if len(used) == 1 else usual
        if len(chosen) != 1:
            raise DataError(
                f"the regions have the attributes {names}",
                where=self.files.where(self._rows[0][0]),
                fix="say which one is the class with `class_attribute`",
            )
        self.decisions.append(f'the class of a region is its attribute "{chosen[0]}"')
        return chosen[0]

    def _class(self, region: Any) -> str:
        if not self._attribute:
            return _ANY
        value = _attributes(region).get(self._attribute)
        if isinstance(value, dict):  # a checkbox: {"cat": true}
            ticked = [k for k, v in value.items() if v]
            if len(ticked) > 1:
                raise DataError(f"has several classes: {', '.join(ticked)}", kind="several-classes")
            value = ticked[0] if ticked else ""
        return class_name(value)

    def _read(self, name: str) -> Iterator[dict[str, Any]]:
        where = self.files.where(name)
        try:
            content = (
                _of_csv(self.files.text(name)) if name.lower().endswith(".csv") else self.files.json(name)
            )
            if isinstance(content, dict):
                content = content.get("_via_img_metadata", content)
            if not isinstance(content, dict | list):
                raise DataError("is not a VIA file", where=where, kind="other-json")
        except csv.Error as error:
            return self.faults.reject(DataError(f"is not CSV ({error})", where=where), where)
        except DataError as error:
            return self.faults.reject(error, where)
        for row in content.values() if isinstance(content, dict) else content:
            if isinstance(row, dict):
                yield row
            else:
                self.faults.add("bad-entry", where, f"{str(row)[:40]!r} is not an entry of VIA")


def _regions(row: dict[str, Any]) -> list[Any]:
    """Of an image: a list in version 2, a mapping in version 1."""
    regions = row.get("regions")
    return list(regions.values()) if isinstance(regions, dict) else items(regions)


def _attributes(region: Any) -> dict[str, Any]:
    return mapping(mapping(region).get("region_attributes"))


def _of_csv(text: str) -> list[Any]:
    """The entries of the CSV export, which has a line a region, as those of the JSON."""
    images: dict[str, dict[str, Any]] = {}
    head = text.partition("\n")[0]
    mark = ";" if head.count(";") > head.count(",") else ","  # as a spreadsheet may have saved it
    for row in csv.DictReader(io.StringIO(text, newline=""), delimiter=mark):
        row = {(k or "").strip().lstrip("#"): v for k, v in row.items()}
        name = row.get("filename") or ""
        image = images.setdefault(name, {"filename": name, "regions": []})
        if row.get("region_count") == "0":
            continue
        try:
            shape, attributes = (
                json.loads(row[k] or "") for k in ("region_shape_attributes", "region_attributes")
            )
        except (KeyError, TypeError, ValueError, RecursionError):
            shape, attributes = None, None
        image["regions"].append({"shape_attributes": shape, "region_attributes": attributes})
    return list(images.values())
