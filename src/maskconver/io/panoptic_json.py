"""COCO panoptic JSON, read strictly and into flat columns, and the PNGs that belong to it.

A file of 118,000 images and 1.3 million segments becomes a few NumPy columns: the JSON is scanned once with
every `segments_info` left as text, which is then decoded an image at a time, so that there are never a
million objects.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..core.categories import Categories, Category, made_up_color
from ..core.panoptic_png import read_panoptic_png as read_panoptic_png
from ..core.panoptic_png import write_panoptic_png as write_panoptic_png
from ..core.segments import SegmentTable
from ..errors import DataError


class ImageRow(msgspec.Struct, frozen=True, gc=False):
    """A row of `images`; width and height in pixels, 0 where the file does not say."""

    id: int | str
    file_name: str = ""
    width: int = 0
    height: int = 0


class CategoryRow(msgspec.Struct):
    id: int | float
    name: str = ""
    isthing: int | bool | None = None
    color: list[int] | None = None


class AnnotationRow(msgspec.Struct, gc=False):
    image_id: int | str
    file_name: str
    segments_info: msgspec.Raw


class SegmentRow(msgspec.Struct, gc=False):
    id: int | float
    category_id: int | float
    iscrowd: int | bool = 0
    area: int | float | None = None
    bbox: tuple[float, float, float, float] | None = None


class PanopticJson(msgspec.Struct):
    annotations: list[AnnotationRow]
    categories: list[CategoryRow]
    images: msgspec.Raw = msgspec.Raw(b"")


def decode(decoder: msgspec.json.Decoder[Any], data: Any, name: str, where: str = "") -> Any:
    """Decode, with errors of one line that say where in the file."""
    try:
        return decoder.decode(data)
    except msgspec.ValidationError as error:
        raise DataError(f"{name}: {_explain(str(error), bytes(data), where)}") from None
    except msgspec.DecodeError as error:
        if not data.strip():
            problem = "the file is empty"
        elif "truncated" in str(error):
            line = data.count(b"\n") + 1
            problem = f"the JSON breaks off at byte {len(data)} (line {line}); copy or download it again"
        else:
            problem = str(error)
            at = int(problem.rpartition("byte ")[2].rstrip(")") or 0) if "(byte " in problem else 0
            if data[at : at + 3] == b"NaN" or data[at : at + 8].lstrip(b"-") == b"Infinity":
                problem += "; NaN and Infinity are no JSON numbers, write null or leave the key out"
        raise DataError(f"{name}: {problem}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: not UTF-8 text ({error.reason} at byte {error.start})") from None


def _explain(message: str, data: bytes, where: str) -> str:
    if b'"segments_info"' not in data and b'"segmentation"' in data and not where:
        return (
            "this is a COCO instances file (annotations with `segmentation`), not a panoptic one; "
            "panopticapi's converters/detection2panoptic_coco_format.py converts it"
        )
    if message == "Expected `object`, got `array`" and not where:
        return "not a COCO panoptic file: the JSON is a list, not an object with annotations and categories"
    problem, _, place = message.partition(" - at `$")
    place = f"{where}{place.rstrip('`')}".lstrip(".")
    if "missing required field" in problem:
        problem = f'the key "{problem.split("`")[1]}" is missing'
        return f"{problem} in {place}" if place else f"{problem}; is this a COCO panoptic file?"
    return f"{place}: {problem[0].lower()}{problem[1:]}" if place else f"not a COCO panoptic file: {message}"


@dataclass
class PanopticFile:
    """A COCO panoptic file: A annotated images with S segments in all.

    Attributes:
        path: where it was read from; messages name it.
        categories: what the labels refer to: the file's own categories, or those it was read with.
        own_categories: the categories that stand in the file.
        images: the rows of `images` in file order, with or without annotation; empty if the file has none,
            as predictions do.
        image_ids: of the annotated images, in the order of `annotations`, length A.
        png_names: `annotations[].file_name`, length A.
        offsets: (A+1,) int64; the segments of annotation i are rows offsets[i]…offsets[i+1].
        segments: all S segments as one table.
        boxes: (S, 4) float32 (x, y, w, h) as the file states them; NaN where it does not.
    """

    path: str
    categories: Categories
    own_categories: Categories
    images: list[ImageRow]
    image_ids: list[int | str]
    png_names: list[str]
    offsets: NDArray[np.int64]
    segments: SegmentTable
    boxes: NDArray[np.float32]
    _image_text: bytes = field(default=b"", repr=False)

    def __len__(self) -> int:
        return len(self.image_ids)

    def table(self, index: int) -> SegmentTable:
        """The segments of annotation `index`, as views."""
        rows = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        s = self.segments
        return SegmentTable(s.ids[rows], s.labels[rows], s.crowd[rows], s.areas[rows])

    @cached_property
    def image_info(self) -> list[dict[str, Any]]:
        """The rows of `images` with all their keys (`image_type`, …); decoded when first asked for."""
        return msgspec.json.decode(self._image_text, type=list[dict[str, Any]]) if self._image_text else []

    def image_rows(self) -> list[msgspec.Raw]:
        """The rows of `images` as JSON text, for readers that keep text instead of dictionaries."""
        return msgspec.json.decode(self._image_text, type=list[msgspec.Raw]) if self._image_text else []

    @cached_property
    def index_of(self) -> dict[int | str, int]:
        """The annotation's position by image id."""
        return {image_id: i for i, image_id in enumerate(self.image_ids)}


def read_panoptic_json(
    source: str | os.PathLike[str] | bytes,
    *,
    name: str = "",
    categories: Categories | None = None,
    defects: list[str] | None = None,
) -> PanopticFile:
    """Read a COCO panoptic JSON file and check that it makes sense by itself (no PNG is opened).

    Args:
        source: a path, or the file's bytes.
        name: what messages call the file; by default the path.
        categories: give the segments labels of this set instead of the file's own: for a prediction, the
            ground truth's.
        defects: without it the first defect is raised. With it, defects that leave the rest of the file
            usable are appended instead, one line each, and the rows they concern are left out.

    Returns:
        The file as columns.

    Raises:
        DataError: not JSON, not a COCO panoptic file, or (without `defects`) an inconsistent one.
        OSError: the file cannot be read.
    """
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    name = name or ("panoptic JSON" if isinstance(source, bytes) else os.fspath(source))

    def report(message: str) -> None:
        if defects is None:
            raise DataError(f"{name}: {message}")
        defects.append(f"{name}: {message}")

    data = data.removeprefix(b"\xef\xbb\xbf")
    file = decode(msgspec.json.Decoder(PanopticJson), data, name)
    own = _categories(file.categories, name, report)
    image_text = bytes(file.images)
    images = decode(msgspec.json.Decoder(list[ImageRow]), image_text or b"[]", name, "images")
    annotations = _consistent(file.annotations, images, image_text != b"", report)
    offsets, columns, boxes = _columns(annotations, name)
    image_ids = [a.image_id for a in annotations]
    png_names = [a.file_name for a in annotations]
    del file, annotations, data
    labels, sound = _labels(columns, offsets, image_ids, categories or own, report)
    ids, _, crowd, areas = columns
    if not sound.all():
        offsets = np.concatenate([[0], np.cumsum(sound)])[offsets]
    table = SegmentTable(ids[sound].astype(np.int32), labels[sound], crowd[sound], areas[sound])
    return PanopticFile(
        name, categories or own, own, images, image_ids, png_names, offsets, table, boxes[sound], image_text
    )


def _categories(rows: list[CategoryRow], name: str, report: Callable[[str], None]) -> Categories:
    categories: dict[int, Category] = {}
    for i, row in enumerate(rows):
        number = int(row.id)
        if number != row.id or not 0 <= number < 1 << 53:
            raise DataError(f"{name}: categories[{i}]: the id {row.id} is not a whole number of 0 or more")
        if row.isthing is None:
            which = f'category {number} ("{row.name}")'
            raise DataError(f'{name}: {which} has no key "isthing"; write 1 for things, 0 for stuff')
        if row.color is not None and (len(row.color) != 3 or not all(0 <= v <= 255 for v in row.color)):
            report(f"category {number}: color {row.color} is not three numbers 0…255")
            row.color = None
        if number in categories:
            report(f"category id {number} stands twice in the categories; ids must be unique")
            continue
        color = (row.color[0], row.color[1], row.color[2]) if row.color else made_up_color(i)
        categories[number] = Category(number, row.name or str(number), bool(row.isthing), color)
    try:
        return Categories(categories.values())
    except DataError as error:
        raise DataError(f"{name}: {error}") from None


def _consistent(
    annotations: list[AnnotationRow], images: list[ImageRow], listed: bool, report: Callable[[str], None]
) -> list[AnnotationRow]:
    """The annotations whose image is there (if images are listed at all) and has no other annotation."""
    known: set[int | str] = set()
    for image in images:
        if image.id in known:
            report(f"image id {image.id} stands twice in images; ids must be unique")
        known.add(image.id)
    sound: list[AnnotationRow] = []
    seen: set[int | str] = set()
    for row in annotations:
        if row.image_id in seen:
            report(f"image {row.image_id} has two annotations; it must have one")
        elif listed and row.image_id not in known:
            report(f"annotation for image {row.image_id} (file_name {row.file_name}), which images lacks")
        else:
            sound.append(row)
        seen.add(row.image_id)
    return sound


_Columns = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_], NDArray[np.int64]]


def _columns(
    annotations: list[AnnotationRow], name: str
) -> tuple[NDArray[np.int64], _Columns, NDArray[np.float32]]:
    """Offsets, (ids, category ids, crowd, areas) and boxes of all segments."""
    decoder = msgspec.json.Decoder(list[SegmentRow])
    counts = np.zeros(len(annotations) + 1, np.int64)
    blocks: list[NDArray[np.float64]] = []
    missing = (np.nan,) * 4
    for i, row in enumerate(annotations):
        segments = decode(decoder, row.segments_info, name, f"annotations[{i}].segments_info")
        counts[i + 1] = len(segments)
        values = [(s.id, s.category_id, s.iscrowd, s.area or 0, *(s.bbox or missing)) for s in segments]
        try:
            blocks.append(np.array(values, np.float64).reshape(-1, 8))
        except OverflowError:
            raise DataError(
                f"{name}: image {row.image_id} has a segment with a number beyond all bounds"
            ) from None
    flat = np.concatenate(blocks) if blocks else np.zeros((0, 8))
    areas = flat[:, 3]
    if len(flat) and (areas.min() < 0 or areas.max() > 2**53):
        i = (
            int(np.searchsorted(np.cumsum(counts), np.flatnonzero((areas < 0) | (areas > 2**53))[0], "right"))
            - 1
        )
        raise DataError(
            f"{name}: image {annotations[i].image_id} has a segment whose area is no count of pixels"
        )
    columns = flat[:, 0], flat[:, 1], flat[:, 2] != 0, np.rint(areas).astype(np.int64)
    return np.cumsum(counts), columns, flat[:, 4:].astype(np.float32)


def _labels(
    columns: _Columns,
    offsets: NDArray[np.int64],
    image_ids: list[int | str],
    categories: Categories,
    report: Callable[[str], None],
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The label of each segment, and which segments are sound."""
    ids, category_ids, _, _ = columns
    owner = np.repeat(np.arange(len(image_ids)), np.diff(offsets))
    order = np.argsort(categories.ids)
    position = np.searchsorted(categories.ids, category_ids, sorter=order)
    labels = order[np.minimum(position, len(order) - 1)]
    in_range = (ids >= 1) & (ids < 1 << 24) & (ids == np.floor(ids))
    unknown = categories.ids[labels] != category_ids
    again = np.zeros(len(ids), bool)
    key = owner.astype(np.int64) << 24 | np.where(in_range, ids, 0).astype(np.int64)
    by_key = np.argsort(key, kind="stable")
    again[by_key[1:]] = (np.diff(key[by_key]) == 0) & in_range[by_key[1:]]
    for row in np.flatnonzero(~in_range | unknown | again).tolist():
        segment, image = f"{ids[row]:.0f}", image_ids[owner[row]]
        if ids[row] == 0:
            report(f"image {image} lists a segment with id 0; 0 is void, ids begin at 1")
        elif not in_range[row]:
            report(
                f"image {image}: segment id {segment} is no colour; ids are whole numbers 1…{(1 << 24) - 1}"
            )
        elif unknown[row]:
            report(
                f"image {image}, segment {segment}: category {category_ids[row]:.0f} is not in the categories"
            )
        else:
            report(f"image {image} lists segment id {segment} twice; ids must be unique in an image")
    return labels.astype(np.int64), in_range & ~unknown & ~again
