"""The part of the data check that needs the JSON alone: what it lists, and every fault in it."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...errors import DataError

MAX_ID = (1 << 24) - 1
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Defect:
    """One fault of a data set.

    Attributes:
        kind: what it is, e.g. `wrong-area`; the same word for the same fault.
        file: the file in which it is.
        message: one line: what is wrong, and how it may be mended.
        severity: `error` where training or evaluation refuses the file, `warning` where the files are usable.
        image_id: of the image, or None.
        segment_id: of the segment, or None.
    """

    kind: str
    file: str
    message: str
    severity: str = "error"
    image_id: int | str | None = None
    segment_id: int | None = None

    def to_json(self) -> Row:
        """The fields that say something."""
        return {k: v for k, v in asdict(self).items() if v is not None}


@dataclass(slots=True)
class LooseFile:
    """A COCO panoptic JSON as far as it can be understood.

    Attributes:
        path: of the file.
        images: rows of `images` by id.
        annotations: rows of `annotations` whose image is there, the first one of each image.
        categories: rows of `categories` by id.
        defects: what is wrong in the file itself.
    """

    path: Path
    images: dict[int | str, Row]
    annotations: list[Row]
    categories: dict[int, Row]
    defects: list[Defect]


def load_loosely(path: Path) -> LooseFile:
    """Read a panoptic JSON and note everything that is wrong in it.

    Raises:
        DataError: nothing can be checked: no file, not JSON, not a panoptic file.
    """
    content = _parse(path)
    found = LooseFile(path, {}, [], {}, [])
    _check_categories(found, content["categories"])
    _check_images(found, content["images"])
    _check_annotations(found, content["annotations"])
    return found


def _parse(path: Path) -> Row:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    if not data.strip():
        raise DataError(f"{path}: the file is empty; write or download it again")
    try:
        content = json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}: not JSON: {error.msg} at line {error.lineno} column {error.colno}"
        ) from None
    if not isinstance(content, dict):
        raise DataError(
            f"{path}: holds a {type(content).__name__}, not a COCO panoptic file (an object with images…)"
        )
    rows = content.get("annotations")
    first = rows[0] if isinstance(rows, list) and rows and isinstance(rows[0], dict) else {}
    if "segmentation" in first and "segments_info" not in first:
        raise DataError(
            f"{path}: a COCO instances file (polygons), not a panoptic one; convert it first, "
            "e.g. with panopticapi's converters/detection2panoptic_coco_format.py"
        )
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            raise DataError(f'{path}: the list "{key}" is missing; a COCO panoptic file has it')
    if not content["categories"]:
        raise DataError(f'{path}: "categories" is empty; a data set needs at least one')
    return content


def _check_categories(found: LooseFile, rows: Iterable[Any]) -> None:
    def note(kind: str, message: str, severity: str = "error") -> None:
        found.defects.append(Defect(kind, str(found.path), message, severity))

    for row in rows:
        if not isinstance(row, dict) or "id" not in row:
            note("bad-category", f"category {str(row)[:60]} has no id")
            continue
        number, text = whole(row["id"]), row["id"]
        if number is None and isinstance(text, str) and text.isdecimal():
            number = int(text)
            note("bad-category", f'category id "{text}" is text; write it as a number')
        if number is None or number < 0:
            note("bad-category", f"category id {text!r} is not a whole number of 0 or more")
            continue
        if number in found.categories:
            other = found.categories[number].get("name")
            note(
                "duplicate-category", f'category id {number} stands twice ("{other}" and "{row.get("name")}")'
            )
            if bool(found.categories[number].get("isthing")) != bool(row.get("isthing")):
                note("isthing-disagrees", f"category {number} is once a thing and once stuff")
            continue
        if row.get("isthing") not in (0, 1):
            note("no-isthing", f'category {number} ("{row.get("name")}") lacks the key isthing (0 or 1)')
        found.categories[number] = row


def _check_images(found: LooseFile, rows: Iterable[Any]) -> None:
    for row in rows:
        number = row.get("id") if isinstance(row, dict) else None
        if not isinstance(number, int | str) or not isinstance(row.get("file_name"), str):
            text = f"image {str(row)[:60]} lacks id or file_name"
            found.defects.append(Defect("bad-image-row", str(found.path), text))
        elif number in found.images:
            text = (
                f"image id {number} stands twice ({found.images[number]['file_name']} and {row['file_name']})"
            )
            found.defects.append(Defect("duplicate-image", str(found.path), text, image_id=number))
        else:
            found.images[number] = row


def _check_annotations(found: LooseFile, rows: Iterable[Any]) -> None:
    seen: set[int | str] = set()
    for row in rows:
        number = row.get("image_id") if isinstance(row, dict) else None
        if not isinstance(number, int | str) or not isinstance(row.get("segments_info"), list):
            text = f"annotation {str(row)[:60]} lacks image_id or segments_info"
            found.defects.append(Defect("bad-annotation-row", str(found.path), text))
        elif number not in found.images:
            text = f"annotation of image {number}, which is not in images"
            found.defects.append(Defect("annotation-without-image", str(found.path), text, image_id=number))
        elif number in seen:
            text = f"image {number} has two annotations"
            found.defects.append(Defect("duplicate-annotation", str(found.path), text, image_id=number))
        elif not isinstance(row.get("file_name"), str):
            text = f"the annotation of image {number} names no PNG (file_name)"
            found.defects.append(Defect("bad-annotation-row", str(found.path), text, image_id=number))
        else:
            found.annotations.append(row)
            found.defects += _check_segments(found, number, row["segments_info"])
        if isinstance(number, int | str):
            seen.add(number)
    if found.images and not seen:
        text = "no image has an annotation; there is nothing to train on or to evaluate with"
        found.defects.append(Defect("no-annotation", str(found.path), text))


def _check_segments(found: LooseFile, image_id: int | str, rows: list[Any]) -> list[Defect]:
    """Ids, categories and flags of the segments of one image."""
    defects: list[Defect] = []
    seen: set[int] = set()
    stuff: Counter[int] = Counter()

    def note(kind: str, message: str, segment: int | None, severity: str = "error") -> None:
        defects.append(
            Defect(kind, str(found.path), f"image {image_id}: {message}", severity, image_id, segment)
        )

    for row in rows:
        number = whole(row.get("id")) if isinstance(row, dict) else None
        category = whole(row.get("category_id")) if isinstance(row, dict) else None
        if number is None or category is None:
            note("bad-segment-row", f"segment {str(row)[:60]} lacks id or category_id", number)
            continue
        if number == 0:
            note("segment-id-zero", "a segment has id 0, which means void", 0)
        elif not 0 < number <= MAX_ID:
            note(
                "segment-id-too-large", f"segment id {number} is not in 1…{MAX_ID}: no colour for it", number
            )
        if number in seen:
            note("duplicate-segment", f"segment id {number} stands twice", number)
            continue
        seen.add(number)
        if category not in found.categories:
            note("unknown-category", f"segment {number} has category {category}, not in categories", number)
            continue
        is_stuff = not found.categories[category].get("isthing")
        crowd = row.get("iscrowd", 0)
        if crowd not in (0, 1):
            note("bad-crowd", f"segment {number}: iscrowd is {crowd!r}, not 0 or 1", number, "warning")
        if is_stuff and crowd == 1:
            note("crowd-stuff", f"segment {number} is stuff and marked as crowd", number, "warning")
        stuff[category] += is_stuff
    for category, count in stuff.items():
        if count > 1:
            name = found.categories[category].get("name", category)
            text = f'stuff "{name}" is split in {count} segments; they are merged for training'
            note("split-stuff", text, None, "warning")
    return defects


def whole(value: Any) -> int | None:
    """The whole number that a JSON value is (1 and 1.0 alike), or None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return int(value) if value == int(value) else None
