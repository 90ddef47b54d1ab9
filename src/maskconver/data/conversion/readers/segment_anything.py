"""Segment Anything: one JSON file per image, masks without class (SA-1B, the automatic mask generator)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ....errors import DataError
from ..annotation import AnnotatedImage, Options, Reader, Shape, SourceClass
from ..files import Files
from ..geometry import polygon
from .coco import split_of

CLASS = "object"


class SegmentAnything(Reader):
    """Files with `image` and `annotations`; all masks become the class `object`."""

    name: ClassVar[str] = "segment-anything"
    title: ClassVar[str] = "Segment Anything"

    def __init__(self, files: Files, options: Options) -> None:
        super().__init__(files, options)
        self.names = [n for n in files.matching(".json") if _is_one(files, n)]
        if not self.names:
            raise DataError("no Segment Anything JSON here", where=files.where(files.only))
        self.classes = [SourceClass(CLASS, is_thing=True)]
        self.decisions.append(f'the masks have no class; all become "{CLASS}"')

    @classmethod
    def detect(cls, files: Files) -> str | None:
        first = next(
            (n for n in files.matching(".json")[:20] if _is_one(files, n) and _has_masks(files, n)), None
        )
        return None if first is None else f"{first} has an image and its masks with predicted_iou"

    def one(self, name: str) -> AnnotatedImage:
        where = self.files.where(name)
        content = self.files.json(name)
        row = content.get("image")
        if not isinstance(row, dict) or not isinstance(row.get("file_name"), str):
            raise DataError("names no image", kind="bad-image-row")
        folder = name.rpartition("/")[0]
        path = self.image(row["file_name"], folder, "images")
        width, height = (row.get(k) if isinstance(row.get(k), int) else None for k in ("width", "height"))
        image = AnnotatedImage(row["file_name"], path, where, split_of(name), width, height)
        found = content.get("annotations")
        for number, entry in enumerate(found if isinstance(found, list) else [], 1):
            try:
                image.shapes.append(_shape(entry, number))
            except DataError as error:
                self.faults.add(error.kind, f"{where}, annotation {number}", error.what)
        return image


def _shape(row: Any, number: int) -> Shape:
    outline = row.get("segmentation") if isinstance(row, dict) else None
    shape = Shape(CLASS, entry=f"annotation {row.get('id', number) if isinstance(row, dict) else number}")
    if isinstance(outline, Mapping):
        shape.rle = outline
    elif isinstance(outline, list) and outline:
        shape.polygons = [polygon(part) for part in outline]
    else:
        raise DataError("has no mask", kind="no-outline")
    area, score = row.get("area"), row.get("predicted_iou")
    shape.area = float(area) if isinstance(area, int | float) else None
    shape.score = float(score) if isinstance(score, int | float) else None
    return shape


def _is_one(files: Files, name: str) -> bool:
    head = files.head(name, 1 << 16)
    return '"image"' in head and '"annotations"' in head and '"images"' not in head


def _has_masks(files: Files, name: str) -> bool:
    head = files.head(name, 1 << 16)
    return '"predicted_iou"' in head or '"stability_score"' in head
