"""The part of the data check that opens the files of one image."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.segments import Runs, measure, reversed_channels_hint
from ...errors import DataError, MaskconverError
from ...io.images import MAX_PIXELS, image_form, image_size, read_image
from ...io.panoptic_json import read_panoptic_png
from ...io.panoptic_rows import Defect, ImageRow
from ...io.pixels import kept_warnings
from ...io.sources import FileSource
from .alike import fingerprint

WHOLE = 0.98  # of a side


@dataclass(slots=True)
class ImageFinding:
    """What was found about one image.

    Attributes:
        defects: what is wrong.
        notes: what is worth a look.
        name: its file.
        form: what kind of image it is, e.g. `3 channels, 8 bits`; "" where it was not opened.
        fingerprint: see `alike`.
        segments: (category id, area, crowd) of each listed segment.
        pixels, void: pixels of its annotation, and those without a class.
    """

    defects: list[Defect] = field(default_factory=list)
    notes: list[Defect] = field(default_factory=list)
    name: str = ""
    form: str = ""
    fingerprint: bytes = b""
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
class Look:
    """How closely the files are looked at.

    Attributes:
        open_files: open images and PNGs; otherwise only what the annotation states is checked.
        decode: decode every image, which finds damaged ones; otherwise its header is read.
        fingerprints: take fingerprints of decoded images, to find near-duplicates.
        max_pixels: as in `read_image`.
    """

    open_files: bool = True
    decode: bool = True
    fingerprints: bool = False
    max_pixels: int = MAX_PIXELS


@dataclass(frozen=True, slots=True)
class ImageChecker:
    """Checks one image after the other; can be sent to other processes.

    Attributes:
        images, pngs: where the files are.
        json_path: what messages call the JSON.
        things: category ids of things.
        look: how closely to look.
    """

    images: FileSource
    pngs: FileSource
    json_path: str
    things: frozenset[int] = frozenset()
    look: Look = Look()

    def __call__(self, listed: Listed) -> ImageFinding:
        """Check the files of one image."""
        image = listed.image
        found = ImageFinding(name=image.file_name)
        if not self.look.open_files:
            self._stated(listed, found)
            return found
        size = check_image(self.images, image.file_name, image.id, found=found, look=self.look)
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

    def _stated(self, listed: Listed, found: ImageFinding) -> None:
        """What can be told from the JSON alone."""
        image = listed.image
        columns = (listed.ids, listed.categories, listed.crowd, listed.areas, listed.boxes)
        for number, category, crowd, area, box in zip(*(c.tolist() for c in columns)):
            found.segments.append((category, int(area), crowd))
            if math.isnan(box[0]):
                continue
            fault = _stated_fault(area, box, image)
            if fault:
                text = f"image {image.id}, segment {number}: {fault[1]}"
                found.defects.append(Defect(fault[0], self.json_path, text, "warning", image.id, number))
            elif category in self.things and not crowd and image.width and image.height:
                self._note(found, image.id, number, odd_segment(area, box, (image.height, image.width)))

    def _note(
        self, found: ImageFinding, image_id: int | str, number: int, odd: tuple[str, str] | None
    ) -> None:
        if odd:
            text = f"image {image_id}, segment {number}: {odd[1]}"
            found.notes.append(note(odd[0], self.json_path, text, image_id=image_id, segment_id=number))

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

        def warn(kind: str, number: int, text: str) -> None:
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
                warn("empty-segment", number, text)
                continue
            if stated and stated != area:
                warn("wrong-area", number, f"area is {stated:g}, the PNG has {area} pixels")
            if not math.isnan(stated_box[0]) and (fault := _box_fault(stated_box, box)):
                warn("wrong-bbox", number, fault)
            if category in self.things and not crowd:
                self._note(found, image_id, number, odd_segment(area, box, ids.shape))


def check_image(
    source: FileSource, name: str, image_id: int | str, *, found: ImageFinding, look: Look
) -> tuple[int, ...] | None:
    """Height and width of an image, or None; what is wrong with it is added to `found`."""
    where = source.where(name)
    try:
        if not source.exists(name):
            source.read(name)  # raises with the reason
        data = source.read(name)
        channels, bits = image_form(data, name=where)
        found.form = f"{channels} channel{'s' * (channels > 1)}, {bits} bits"
        if not look.decode:
            return image_size(data, name=where)
        with kept_warnings() as warned:
            pixels = read_image(
                data, max_pixels=look.max_pixels, name=where, channels=3 if channels in (1, 3) else channels
            )
        for warning in warned:
            found.defects.append(Defect("odd-image", where, warning.text, "warning", image_id))
        if look.fingerprints:
            found.fingerprint = fingerprint(pixels)
        return pixels.shape[:2]
    except MaskconverError as error:
        kind = "broken-image" if source.exists(name) else "missing-image"
        found.defects.append(Defect(kind, where, error.text, "error", image_id))
        return None


def note(
    kind: str, file: str, message: str, *, image_id: Any = None, segment_id: int | None = None
) -> Defect:
    """A defect that is none."""
    return Defect(kind, file, message, "note", image_id, segment_id)


def odd_segment(area: float, box: Any, size: tuple[int, ...]) -> tuple[str, str] | None:
    """Kind and text of what is odd about a thing.

    Args:
        area: pixels.
        box: x, y, width, height.
        size: height and width of the image.
    """
    if area == 1:
        return "one-pixel", "is a single pixel"
    if box[2] >= WHOLE * size[1] and box[3] >= WHOLE * size[0]:
        return "covers-image", "is a thing whose box covers the whole image"
    return None


def _stated_fault(area: float, box: list[float], image: ImageRow) -> tuple[str, str] | None:
    """Kind and text of a box or an area that cannot be."""
    x, y, w, h = box
    rounded = [round(v, 1) for v in box]
    if (
        image.width
        and image.height
        and (min(x, y) < -2 or x + w > image.width + 2 or y + h > image.height + 2)
    ):
        size = f"{image.width}×{image.height}"
        return "wrong-bbox", f"bbox is {rounded}, outside of the image, which is {size}"
    if area > (w + 2) * (h + 2):
        return "wrong-area", f"area is {area:g}, more than its bbox {rounded} holds"
    return None


def _box_fault(stated: list[float], true: list[int]) -> str:
    """What is wrong with a box, "" for nothing; less than two pixels count as rounding."""
    if all(abs(a - b) < 2 for a, b in zip(stated, true)):
        return ""
    x, y, w, h = true
    corners = all(abs(a - b) < 2 for a, b in zip(stated, (x, y, x + w, y + h)))
    hint = "; it looks like corners x1, y1, x2, y2" if corners else ""
    return f"bbox is {[round(v, 1) for v in stated]}, in the PNG it is {true}{hint}"
