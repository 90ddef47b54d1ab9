"""COCO panoptic JSON, read strictly and into flat columns, and the PNGs that belong to it.

A file of 118,000 images and 1.3 million segments becomes a few NumPy columns: the JSON is scanned once with
every `segments_info` left as text, which is then decoded an image at a time, so that there are never a
million objects.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..core.categories import Categories, Category, made_up_color
from ..core.panoptic_png import read_panoptic_png as read_panoptic_png
from ..core.panoptic_png import write_panoptic_png as write_panoptic_png
from ..core.segments import SegmentTable
from ..errors import DataError
from .panoptic_rows import (
    MAX_ID,
    AnnotationRow,
    CategoryRow,
    Defect,
    ImageRow,
    Report,
    SegmentRow,
    annotation_row,
    category_row,
    explain_other_kind,
    image_row,
    parse,
    require_utf8,
    rows_of,
    segment_row,
    sound_text,
)

NO_IMAGES = 'the list "images" is missing or empty; it names the images'


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
        return self.segments[slice(int(self.offsets[index]), int(self.offsets[index + 1]))]

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
    defects: list[Defect] | None = None,
) -> PanopticFile:
    """Read a COCO panoptic JSON file and check that it makes sense by itself (no PNG is opened).

    Args:
        source: a path, or the file's bytes.
        name: what messages call the file; by default the path.
        categories: give the segments labels of this set instead of the file's own: for a prediction, the
            ground truth's. The file then need not have categories.
        defects: without it the first error is raised. With it, all errors and warnings that leave the rest of
            the file usable are appended instead, and the rows that errors concern are left out; segments of
            an unknown category stay, with the label -1.

    Returns:
        The file as columns.

    Raises:
        DataError: not JSON, not a COCO panoptic file, or (without `defects`) an inconsistent one.
        OSError: the file cannot be read.
    """
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    name = name or ("panoptic JSON" if isinstance(source, bytes) else os.fspath(source))

    report = _reporter(name, defects)
    file = parse(data, name)
    require_utf8(data, name)
    explain_other_kind(file, data, name)
    del data
    for key, needed in (("annotations", True), ("categories", categories is None)):
        if needed and not bytes(getattr(file, key)):
            raise DataError(f'the key "{key}" is missing; is this a COCO panoptic file?', where=name)
    with sound_text(name):
        own = categories
        if categories is None or bytes(file.categories):
            own = _categories(file.categories, name, report)
        assert own is not None
        image_text = bytes(file.images)
        images, kept = rows_of(
            image_text or b"[]", ImageRow, partial(image_row, report=report), key="images", name=name
        )
        if kept is not None:
            image_text = b"[" + b",".join(kept) + b"]"
        annotations, _ = rows_of(
            file.annotations,
            AnnotationRow,
            partial(annotation_row, report=report),
            key="annotations",
            name=name,
        )
        annotations = _consistent(annotations, images, image_text != b"", report)
        offsets, columns, boxes = _columns(annotations, report)
    image_ids = [a.image_id for a in annotations]
    png_names = [a.file_name for a in annotations]
    del file, annotations
    labels, sound = _labels(columns, offsets, image_ids, categories or own, report, defects is not None)
    ids, _, crowd, areas = columns
    if not sound.all():
        offsets = np.concatenate([[0], np.cumsum(sound)])[offsets]
    table = SegmentTable(ids[sound].astype(np.int32), labels[sound], crowd[sound], areas[sound])
    return PanopticFile(
        name, categories or own, own, images, image_ids, png_names, offsets, table, boxes[sound], image_text
    )


def read_image_rows(path: str | os.PathLike[str]) -> list[ImageRow]:
    """The rows of `images` of any COCO JSON: panoptic, of instances, or of images alone.

    Raises:
        DataError: not JSON, no images, or a row that is none.
        OSError: the file cannot be read.
    """
    name = os.fspath(path)
    data = Path(path).read_bytes()
    text = bytes(parse(data, name).images)
    require_utf8(data, name)
    with sound_text(name):
        loose = partial(image_row, report=_reporter(name, None))
        rows, _ = rows_of(text or b"[]", ImageRow, loose, key="images", name=name)
    if not rows:
        raise DataError(NO_IMAGES, where=name)
    return rows


def _reporter(name: str, defects: list[Defect] | None) -> Report:
    """Keeps defects in a list, or raises the first error where there is none."""

    def report(
        kind: str,
        message: str,
        severity: str = "error",
        image_id: int | str | None = None,
        segment_id: int | None = None,
    ) -> None:
        if defects is not None:
            defects.append(Defect(kind, name, message, severity, image_id, segment_id))
        elif severity == "error":
            raise DataError(message, where=name, kind=kind)

    return report


def _categories(text: msgspec.Raw, name: str, report: Report) -> Categories:
    rows, _ = rows_of(text, CategoryRow, partial(category_row, report=report), key="categories", name=name)
    categories: dict[int, Category] = {}
    for i, row in enumerate(rows):
        if not 0 <= row.id < 1 << 53:
            report("bad-category", f"categories[{i}]: the id {row.id} is not a whole number of 0 or more")
            continue
        which = f'category {row.id} ("{row.name}")'
        if row.isthing is None:
            report("no-isthing", f'{which} has no key "isthing"; write 1 for things, 0 for stuff')
        elif row.isthing not in (0, 1):
            report("no-isthing", f"{which}: isthing is {row.isthing}, not 0 or 1")
        if row.color is not None and not all(0 <= v <= 255 for v in row.color):
            fault = f"color {list(row.color)} is not three whole numbers 0…255 and is ignored"
            report("bad-color", f"category {row.id}: {fault}", "warning")
            row.color = None
        if row.id in categories:
            first = categories[row.id]
            report(
                "duplicate-category", f'category id {row.id} occurs twice ("{first.name}" and "{row.name}")'
            )
            if first.is_thing != bool(row.isthing):
                report("isthing-disagrees", f"category {row.id} is once a thing and once stuff")
            continue
        color = row.color or made_up_color(i)
        categories[row.id] = Category(row.id, row.name or str(row.id), bool(row.isthing), color)
    if not categories:
        what = '"categories" is empty; a data set needs at least one' if not rows else "no category is usable"
        raise DataError(what, where=name)
    return Categories(categories.values())


def _consistent(
    annotations: list[AnnotationRow], images: list[ImageRow], listed: bool, report: Report
) -> list[AnnotationRow]:
    """The annotations whose image is there (if images are listed at all) and has no other annotation."""
    known: dict[int | str, str] = {}
    for image in images:
        if image.id in known:
            names = f"{known[image.id]} and {image.file_name}"
            text = f"image id {image.id} occurs twice in images ({names}); ids must be unique"
            report("duplicate-image", text, image_id=image.id)
        known.setdefault(image.id, image.file_name)
    sound: list[AnnotationRow] = []
    seen: set[int | str] = set()
    for row in annotations:
        number = row.image_id
        if number in seen:
            report(
                "duplicate-annotation",
                f"image {number} has two annotations; it must have one",
                image_id=number,
            )
        elif listed and number not in known:
            other = next((k for k in known if str(k) == str(number)), None)
            hint = (
                "" if other is None else f"; there it is {'a number' if isinstance(other, int) else 'text'}"
            )
            text = f"annotation of image {number} (file_name {row.file_name}), which images lacks{hint}"
            report("annotation-without-image", text, image_id=number)
        else:
            sound.append(row)
        seen.add(number)
    for file_name, count in Counter(known[n] for n in seen if known.get(n)).items():
        if count > 1:
            report("same-image", f"{count} annotated images have the file_name {file_name}", "warning")
    return sound


_Columns = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64]]
_MISSING = (np.nan,) * 4


def _columns(
    annotations: list[AnnotationRow], report: Report
) -> tuple[NDArray[np.int64], _Columns, NDArray[np.float32]]:
    """Offsets, (ids, category ids, crowd, areas) and boxes of all segments."""
    decoder = msgspec.json.Decoder(list[SegmentRow])
    counts = np.zeros(len(annotations) + 1, np.int64)
    blocks: list[NDArray[np.float64]] = []
    for i, row in enumerate(annotations):
        try:
            block = _block(decoder.decode(row.segments_info))
        except (msgspec.ValidationError, OverflowError):
            block = _block(_loose_segments(row, report))
        counts[i + 1] = len(block)
        blocks.append(block)
    flat = np.concatenate(blocks) if blocks else np.zeros((0, 8))
    offsets = np.cumsum(counts)
    areas = flat[:, 3]
    for which, column, text in (
        ("wrong-area", (areas < 0) | (areas > 2**53), "area {:g} is no count of pixels and is ignored"),
        ("bad-crowd", ~np.isin(flat[:, 2], (0, 1)), "iscrowd is {:g}, not 0 or 1"),
    ):
        for k in np.flatnonzero(column).tolist():
            image = annotations[int(np.searchsorted(offsets, k, "right")) - 1].image_id
            value = flat[k, 3 if which == "wrong-area" else 2]
            message = f"image {image}, segment {flat[k, 0]:.0f}: {text.format(value)}"
            report(which, message, "warning", image, int(flat[k, 0]))
    areas[(areas < 0) | (areas > 2**53)] = 0
    columns = flat[:, 0], flat[:, 1], flat[:, 2] != 0, areas
    return offsets, columns, flat[:, 4:].astype(np.float32)


def _block(segments: list[SegmentRow]) -> NDArray[np.float64]:
    values = [(s.id, s.category_id, s.iscrowd, s.area or 0, *(s.bbox or _MISSING)) for s in segments]
    return np.array(values, np.float64).reshape(-1, 8)


def _loose_segments(row: AnnotationRow, report: Report) -> list[SegmentRow]:
    rows = msgspec.json.decode(row.segments_info)
    if not isinstance(rows, list):
        text = f"image {row.image_id}: segments_info is not a list"
        report("bad-annotation-row", text, image_id=row.image_id)
        return []
    return [s for r in rows if (s := segment_row(r, row.image_id, report)) is not None]


def _labels(
    columns: _Columns,
    offsets: NDArray[np.int64],
    image_ids: list[int | str],
    categories: Categories,
    report: Report,
    collecting: bool,
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The label of each segment, -1 where its category is unknown, and which segments are kept."""
    ids, category_ids, crowd, _ = columns
    owner = np.repeat(np.arange(len(image_ids)), np.diff(offsets))
    order = np.argsort(categories.ids)
    position = np.searchsorted(categories.ids, category_ids, sorter=order)
    labels = order[np.minimum(position, len(order) - 1)].astype(np.int64)
    in_range = (ids >= 1) & (ids <= MAX_ID) & (ids == np.floor(ids))
    unknown = categories.ids[labels] != category_ids
    again = np.zeros(len(ids), bool)
    key = owner.astype(np.int64) << 24 | np.where(in_range, ids, 0).astype(np.int64)
    by_key = np.argsort(key, kind="stable")
    again[by_key[1:]] = (np.diff(key[by_key]) == 0) & in_range[by_key[1:]]
    for row in np.flatnonzero(~in_range | unknown | again).tolist():
        segment, image = f"{ids[row]:g}" if ids[row] % 1 else f"{ids[row]:.0f}", image_ids[owner[row]]
        if ids[row] == 0:
            kind, text = "segment-id-zero", "lists a segment with id 0; 0 is void, ids begin at 1"
        elif not in_range[row]:
            kind, text = "segment-id-too-large", f"segment id {segment} is no colour; ids are 1…{MAX_ID}"
        elif again[row]:
            kind, text = (
                "duplicate-segment",
                f"segment id {segment} occurs twice; ids must be unique in an image",
            )
        else:
            category = f"{category_ids[row]:.0f}"
            kind = "unknown-category"
            text = f"segment {segment} has category {category}, which is not in the categories"
        report(kind, f"image {image}: {text}", image_id=image, segment_id=int(ids[row]))
    if collecting:
        _odd_stuff(owner, ids, np.where(unknown | again, -1, labels), crowd, image_ids, categories, report)
    return np.where(unknown, -1, labels), in_range & ~again


def _odd_stuff(
    owner: NDArray[np.int64],
    ids: NDArray[np.float64],
    labels: NDArray[np.int64],
    crowd: NDArray[np.bool_],
    image_ids: list[int | str],
    categories: Categories,
    report: Report,
) -> None:
    """Reports stuff that is marked as crowd, and stuff in several segments of an image."""
    stuff = (labels >= 0) & ~categories.is_thing[labels]
    for row in np.flatnonzero(stuff & crowd).tolist():
        image, segment = image_ids[owner[row]], int(ids[row])
        text = f"image {image}: segment {segment} is stuff and marked as crowd"
        report("crowd-stuff", text, "warning", image, segment)
    pairs, counts = np.unique(np.stack([owner[stuff], labels[stuff]]), axis=1, return_counts=True)
    for (at, label), count in zip(pairs.T[counts > 1].tolist(), counts[counts > 1].tolist()):
        text = f'stuff "{categories[label].name}" is split in {count} segments; they are merged for training'
        report("split-stuff", f"image {image_ids[at]}: {text}", "warning", image_ids[at])
