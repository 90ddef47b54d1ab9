"""The part of the data check that opens the files of one image."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.segments import Runs, measure
from ...errors import DataError, MaskconverError
from ...io.images import MAX_PIXELS, ImageWarning, image_size, read_image
from ...io.panoptic_json import read_panoptic_png
from ...io.sources import FileSource
from ..coco import reversed_channels_hint
from .json import MAX_ID, Defect, Row, whole


@dataclass(slots=True)
class ImageFinding:
    """What was found about one image: its defects, and (category id, area, crowd) of each listed segment."""

    defects: list[Defect] = field(default_factory=list)
    segments: list[tuple[int, int, bool]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ImageChecker:
    """Checks one image after the other; can be sent to other processes.

    Attributes:
        images, pngs: where the files are.
        json_path: what messages call the JSON.
        decode: decode every picture, which finds damaged ones; otherwise its header is read.
        max_pixels: as in `read_image`.
    """

    images: FileSource
    pngs: FileSource
    json_path: str
    decode: bool = True
    max_pixels: int = MAX_PIXELS

    def __call__(self, rows: tuple[Row, Row]) -> ImageFinding:
        """Check the files of one image, given its row of `images` and of `annotations`."""
        image, annotation = rows
        found = ImageFinding()
        size = check_picture(
            self.images, image["file_name"], image["id"], found, self.decode, self.max_pixels
        )
        ids = self._png(annotation, found, image["id"])
        listed = _listed(annotation["segments_info"])
        if ids is None:
            found.segments = [(row["category_id"], 0, bool(row.get("iscrowd"))) for row in listed.values()]
            return found
        where = self.pngs.where(annotation["file_name"])
        if size is not None and size != ids.shape:
            text = f"the PNG is {ids.shape[1]}×{ids.shape[0]}, the picture {size[1]}×{size[0]}"
            found.defects.append(Defect("size-mismatch", where, text, "error", image["id"]))
        stated = (image.get("height"), image.get("width"))
        actual = size or ids.shape
        if None not in stated and stated != actual:
            sizes = f"the JSON says {stated[1]}×{stated[0]}, the file is {actual[1]}×{actual[0]}"
            text = f"image {image['id']}: {sizes}"
            found.defects.append(Defect("size-differs-json", self.json_path, text, "warning", image["id"]))
        self._segments(ids, listed, where, image["id"], found)
        return found

    def _png(self, annotation: Row, found: ImageFinding, image_id: int | str) -> NDArray[np.int32] | None:
        """The id map, or None and a defect."""
        name = annotation["file_name"]
        where = self.pngs.where(name)
        try:
            return read_panoptic_png(self.pngs.read(name), where)
        except DataError as error:
            kind = "broken-png" if self.pngs.exists(name) else "missing-png"
            text = str(error).removeprefix(f"{where}: ")
            found.defects.append(Defect(kind, where, text, "error", image_id))
            return None

    def _segments(
        self,
        ids: NDArray[np.int32],
        listed: dict[int, Row],
        where: str,
        image_id: int | str,
        found: ImageFinding,
    ) -> None:
        present = np.unique(Runs.of(ids).ids)
        present = present[present > 0]
        areas, boxes = measure(ids, present)
        pixels = dict(zip(present.tolist(), zip(areas.tolist(), boxes.tolist())))
        unknown = [number for number in pixels if number not in listed]
        hint = reversed_channels_hint(np.array(unknown, np.int32), np.array([*listed], np.int32))
        for number in unknown[:20]:
            text = f"id {number} ({pixels[number][0]} pixels) is not in the JSON{hint}"
            found.defects.append(Defect("id-not-in-json", where, text, "error", image_id, number))
        if len(unknown) > 20:
            text = f"{len(unknown) - 20} more ids are not in the JSON: a lossy or wrong PNG{hint}"
            found.defects.append(Defect("id-not-in-json", where, text, "error", image_id))
        for number, row in listed.items():
            area, box = pixels.get(number, (0, None))
            found.segments.append((row["category_id"], area, row.get("iscrowd") == 1))

            def note(kind: str, text: str, number: int = number) -> None:
                message = f"image {image_id}, segment {number}: {text}"
                found.defects.append(Defect(kind, self.json_path, message, "warning", image_id, number))

            if box is None:
                note(
                    "empty-segment",
                    "has no pixel in the PNG; it is skipped in training, a miss in evaluation",
                )
                continue
            if (stated := row.get("area")) is not None and stated != area:
                shown = "not a number" if not _is_number(stated) else f"{stated:g}"
                note("wrong-area", f"area is {shown}, the PNG has {area} pixels")
            if (stated := row.get("bbox")) is not None and (fault := _box_fault(stated, box)):
                note("wrong-bbox", fault)


def check_picture(
    source: FileSource, name: str, image_id: int | str, found: ImageFinding, decode: bool, max_pixels: int
) -> tuple[int, ...] | None:
    """Height and width of a picture, or None; what is wrong with it is added to `found`."""
    where = source.where(name)
    try:
        if not source.exists(name):
            source.read(name)  # raises with the reason
        data = source.read(name)
        if not decode:
            return image_size(data, name=where)
        with warnings.catch_warnings(record=True) as notes:
            warnings.simplefilter("always", ImageWarning)
            size = read_image(data, max_pixels=max_pixels, name=where).shape[:2]
        for note in notes:
            text = str(note.message).removeprefix(f"{where}: ")
            found.defects.append(Defect("odd-picture", where, text, "warning", image_id))
        return size
    except MaskconverError as error:
        kind = "broken-picture" if source.exists(name) else "missing-picture"
        text = str(error).removeprefix(f"{where}: ")
        found.defects.append(Defect(kind, where, text, "error", image_id))
        return None


def _listed(rows: list[Any]) -> dict[int, Row]:
    """Usable rows by id, the first of each; the JSON check has named the others."""
    found: dict[int, Row] = {}
    for row in rows:
        number = whole(row.get("id")) if isinstance(row, dict) else None
        category = whole(row.get("category_id")) if isinstance(row, dict) else None
        if number is not None and category is not None and 0 < number <= MAX_ID:
            found.setdefault(number, {**row, "category_id": category})
    return found


def _box_fault(stated: Any, true: list[int]) -> str:
    """What is wrong with a box, "" for nothing; less than two pixels count as rounding."""
    if not isinstance(stated, list) or len(stated) != 4 or not all(_is_number(v) for v in stated):
        return f"bbox {str(stated)[:40]} is not four numbers x, y, width, height"
    if all(abs(a - b) < 2 for a, b in zip(stated, true)):
        return ""
    x, y, w, h = true
    corners = all(abs(a - b) < 2 for a, b in zip(stated, (x, y, x + w, y + h)))
    hint = "; it looks like corners x1, y1, x2, y2" if corners else ""
    return f"bbox is {[round(v, 1) for v in stated]}, in the PNG it is {true}{hint}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
