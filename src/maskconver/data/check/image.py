"""The part of the data check that opens the files of one image."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.segments import Runs, measure, reversed_channels_hint
from ...errors import DataError, MaskconverError
from ...io.images import MAX_PIXELS, image_size, read_image
from ...io.panoptic_json import read_panoptic_png
from ...io.panoptic_rows import Defect, ImageRow
from ...io.pixels import kept_warnings
from ...io.sources import FileSource


@dataclass(slots=True)
class ImageFinding:
    """What was found about one image.

    Attributes:
        defects: what is wrong.
        segments: (category id, area, crowd) of each listed segment.
        pixels, void: pixels of its annotation, and those without a class.
    """

    defects: list[Defect] = field(default_factory=list)
    segments: list[tuple[int, int, bool]] = field(default_factory=list)
    pixels: int = 0
    void: int = 0


@dataclass(frozen=True, slots=True)
class Listed:
    """What the JSON says about one annotated image.

    Attributes:
        image: its row of `images`.
        png: the file name of its PNG.
        ids, categories: (S,) ids and category ids of the segments; -1 for an unknown category.
        crowd: (S,) bool.
        areas: (S,) as stated, 0 where they are not.
        boxes: (S, 4) x, y, width, height as stated, NaN where they are not.
    """

    image: ImageRow
    png: str
    ids: NDArray[np.int32]
    categories: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    areas: NDArray[Any]
    boxes: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ImageChecker:
    """Checks one image after the other; can be sent to other processes.

    Attributes:
        images, pngs: where the files are.
        json_path: what messages call the JSON.
        decode: decode every image, which finds damaged ones; otherwise its header is read.
        max_pixels: as in `read_image`.
    """

    images: FileSource
    pngs: FileSource
    json_path: str
    decode: bool = True
    max_pixels: int = MAX_PIXELS

    def __call__(self, listed: Listed) -> ImageFinding:
        """Check the files of one image."""
        image = listed.image
        found = ImageFinding()
        size = check_image(
            self.images,
            image.file_name,
            image.id,
            found=found,
            decode=self.decode,
            max_pixels=self.max_pixels,
        )
        where = self.pngs.where(listed.png)
        try:
            ids = read_panoptic_png(self.pngs.read(listed.png), where)
        except DataError as error:
            kind = "broken-png" if self.pngs.exists(listed.png) else "missing-png"
            found.defects.append(Defect(kind, where, error.text, "error", image.id))
            found.segments = [
                (category, 0, crowd)
                for category, crowd in zip(listed.categories.tolist(), listed.crowd.tolist())
            ]
            return found
        if size is not None and size != ids.shape:
            text = f"the PNG is {ids.shape[1]}×{ids.shape[0]}, the image {size[1]}×{size[0]}"
            found.defects.append(Defect("size-mismatch", where, text, "error", image.id))
        actual = size or ids.shape
        if image.width and image.height and (image.height, image.width) != actual:
            sizes = f"the JSON says {image.width}×{image.height}, the file is {actual[1]}×{actual[0]}"
            text = f"image {image.id}: {sizes}"
            found.defects.append(Defect("size-differs-json", self.json_path, text, "warning", image.id))
        self._segments(ids, listed, where, found)
        return found

    def _segments(self, ids: NDArray[np.int32], listed: Listed, where: str, found: ImageFinding) -> None:
        image_id = listed.image.id
        found.pixels, found.void = ids.size, int(ids.size - np.count_nonzero(ids))
        present = np.unique(Runs.of(ids).ids)
        present = present[present > 0]
        areas, boxes = measure(ids, present)
        pixels = dict(zip(present.tolist(), zip(areas.tolist(), boxes.tolist())))
        unknown = np.setdiff1d(present, listed.ids)
        hint = reversed_channels_hint(present, listed.ids)
        for number in unknown[:20].tolist():
            text = f"id {number} ({pixels[number][0]} pixels) is not in the JSON{hint}"
            found.defects.append(Defect("id-not-in-json", where, text, "error", image_id, number))
        if len(unknown) > 20:
            text = f"{len(unknown) - 20} more ids are not in the JSON: a lossy or wrong PNG{hint}"
            found.defects.append(Defect("id-not-in-json", where, text, "error", image_id))

        def note(kind: str, number: int, text: str) -> None:
            message = f"image {image_id}, segment {number}: {text}"
            found.defects.append(Defect(kind, self.json_path, message, "warning", image_id, number))

        rows = zip(
            *(c.tolist() for c in (listed.ids, listed.categories, listed.crowd, listed.areas, listed.boxes))
        )
        for number, category, crowd, stated, stated_box in rows:
            area, box = pixels.get(number, (0, None))
            found.segments.append((category, area, crowd))
            if box is None:
                text = "has no pixel in the PNG; it is skipped in training, a miss in evaluation"
                note("empty-segment", number, text)
                continue
            if stated and stated != area:
                note("wrong-area", number, f"area is {stated:g}, the PNG has {area} pixels")
            if not math.isnan(stated_box[0]) and (fault := _box_fault(stated_box, box)):
                note("wrong-bbox", number, fault)


def check_image(
    source: FileSource, name: str, image_id: int | str, *, found: ImageFinding, decode: bool, max_pixels: int
) -> tuple[int, ...] | None:
    """Height and width of an image, or None; what is wrong with it is added to `found`."""
    where = source.where(name)
    try:
        if not source.exists(name):
            source.read(name)  # raises with the reason
        data = source.read(name)
        if not decode:
            return image_size(data, name=where)
        with kept_warnings() as notes:
            size = read_image(data, max_pixels=max_pixels, name=where).shape[:2]
        for note in notes:
            found.defects.append(Defect("odd-image", where, note.text, "warning", image_id))
        return size
    except MaskconverError as error:
        kind = "broken-image" if source.exists(name) else "missing-image"
        found.defects.append(Defect(kind, where, error.text, "error", image_id))
        return None


def _box_fault(stated: list[float], true: list[int]) -> str:
    """What is wrong with a box, "" for nothing; less than two pixels count as rounding."""
    if all(abs(a - b) < 2 for a, b in zip(stated, true)):
        return ""
    x, y, w, h = true
    corners = all(abs(a - b) < 2 for a, b in zip(stated, (x, y, x + w, y + h)))
    hint = "; it looks like corners x1, y1, x2, y2" if corners else ""
    return f"bbox is {[round(v, 1) for v in stated]}, in the PNG it is {true}{hint}"
