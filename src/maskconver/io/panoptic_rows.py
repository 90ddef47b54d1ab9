"""The rows of a COCO panoptic JSON: decoded at once where they are as they should be, else one by one.

Programs write 640.0 for 640, null for what they do not know, NaN for areas, colours as text. What only
decorates (colours, sizes, boxes, areas) is then left out, and what cannot be mistaken is understood. Training
refuses here what makes a row useless, and `data check` is told of it by the same code, so they cannot differ.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Protocol, TypeVar

import msgspec

from ..core.files import LFS_FIX, LFS_POINTER, UTF_16, decoded
from ..errors import DataError, one_line

MAX_ID = (1 << 24) - 1
Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Defect:
    """One fault of a data set.

    Attributes:
        kind: what it is, e.g. `wrong-area`; the same word for the same fault.
        file: the file in which it is.
        message: one line: what is wrong, and how it may be fixed.
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

    def to_json(self) -> dict[str, Any]:
        """The fields that say something."""
        return {k: v for k, v in asdict(self).items() if v is not None}


class Report(Protocol):
    """Takes a defect: raises an error, or keeps it."""

    def __call__(
        self,
        kind: str,
        message: str,
        severity: str = "error",
        image_id: int | str | None = None,
        segment_id: int | None = None,
    ) -> None: ...


class ImageRow(msgspec.Struct, frozen=True, gc=False):
    """A row of `images`; width and height in pixels, 0 where the file does not say."""

    id: int | str
    file_name: str = ""
    width: int = 0
    height: int = 0


class CategoryRow(msgspec.Struct):
    """A row of `categories`; `isthing` is None where it is neither 0 nor 1."""

    id: int
    name: str = ""
    isthing: int | bool | None = None
    color: tuple[int, int, int] | None = None


class AnnotationRow(msgspec.Struct, gc=False):
    """A row of `annotations`, its segments still text."""

    image_id: int | str
    file_name: str
    segments_info: msgspec.Raw


class SegmentRow(msgspec.Struct, gc=False):
    """A row of `segments_info`; area and bbox are None where they are not known."""

    id: int | float
    category_id: int | float
    iscrowd: int | bool = 0
    area: int | float | None = None
    bbox: tuple[float, float, float, float] | None = None


class PanopticJson(msgspec.Struct):
    """The three lists; empty text where one is missing."""

    annotations: msgspec.Raw = msgspec.Raw(b"")
    categories: msgspec.Raw = msgspec.Raw(b"")
    images: msgspec.Raw = msgspec.Raw(b"")


def parse(data: bytes, name: str) -> PanopticJson:
    """The three lists of a file as text; NaN and Infinity, which are not JSON, become text.

    Raises:
        DataError: not JSON, or not an object.
    """
    data = decoded(data).encode() if data.startswith(UTF_16) else data.removeprefix(b"\xef\xbb\xbf")
    if not data.strip():
        raise DataError("the file is empty", where=name, fix="write or download it again")
    try:
        return _parse(data)
    except msgspec.ValidationError:
        kind = "a list" if data.lstrip()[:1] == b"[" else "a lone value"
        what = f"not a COCO panoptic file: the JSON is {kind}, not an object with annotations and categories"
        raise DataError(what, where=name) from None
    except RecursionError:
        raise DataError("not a COCO panoptic file: its JSON is nested too deeply", where=name) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if is_not_utf8(error):
            raise _not_utf8(data, name) from None
        if data.startswith(LFS_POINTER):
            raise DataError("not JSON", where=name, fix=LFS_FIX) from None
        found = re.search(r"\(byte (\d+)\)", str(error))
        at = min(int(found[1]), len(data)) if found else len(data)
        line, column = data.count(b"\n", 0, at) + 1, at - data.rfind(b"\n", 0, at)
        place = f"line {line} column {column} (byte {at})"
        if found is None:
            what = f"not JSON: it breaks off at {place}"
            raise DataError(what, where=name, fix="copy or download it again") from None
        raise DataError(f"not JSON: invalid character at {place}", where=name) from None


@contextmanager
def sound_text(name: str) -> Iterator[None]:
    """Refuses text in the block's rows that is not UTF-8 or not JSON, which `parse` passes over unread.

    Raises:
        DataError: names the file.
    """
    try:
        yield
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if is_not_utf8(error):
            raise DataError("not UTF-8 text", where=name, fix="save it as UTF-8") from None
        raise DataError(f"not JSON: {one_line(error)}", where=name) from None


def require_utf8(data: bytes, name: str) -> None:
    """Refuses a JSON with text that is not UTF-8 anywhere, also in rows that are not read now.

    Raises:
        DataError: says where.
    """
    if data.isascii() or data.startswith(UTF_16):
        return
    try:
        str(data, "utf-8")
    except UnicodeDecodeError:
        raise _not_utf8(data, name) from None


def is_not_utf8(error: Exception) -> bool:
    """Whether a JSON is refused for its encoding; since msgspec 0.23 that is no UnicodeDecodeError."""
    return isinstance(error, UnicodeDecodeError) or str(error).startswith("Invalid UTF-8")


def _not_utf8(data: bytes, name: str) -> DataError:
    try:
        data.decode()
        place = ""
    except UnicodeDecodeError as error:
        place = f" ({error.reason} at byte {error.start})"
    return DataError(f"not UTF-8 text{place}", where=name, fix="save it as UTF-8")


_NOT_JSON = re.compile(rb'"(?:[^"\\]|\\.)*"|-?\b(?:NaN|Infinity)\b')


def _parse(data: bytes) -> PanopticJson:
    decoder = msgspec.json.Decoder(PanopticJson)
    try:
        return decoder.decode(data)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        if b"NaN" not in data and b"Infinity" not in data:
            raise

        def quoted(match: re.Match[bytes]) -> bytes:
            return match[0] if match[0].startswith(b'"') else b'"' + match[0] + b'"'

        return decoder.decode(_NOT_JSON.sub(quoted, data))


def explain_other_kind(file: PanopticJson, data: bytes, name: str) -> None:
    """Raises a `DataError` if this is a COCO file, but one of instances."""
    if b'"segments_info"' not in data and b'"segmentation"' in data and bytes(file.annotations):
        raise DataError(
            "this is a COCO instances file (annotations with `segmentation`), not a panoptic one",
            where=name,
            fix="convert it first: maskconver data convert",
        )


def rows_of(
    text: msgspec.Raw | bytes,
    kind: type[Row],
    loose: Callable[[Any, str], Row | None],
    *,
    key: str,
    name: str,
) -> tuple[list[Row], list[bytes] | None]:
    """All rows of a list.

    Args:
        text: the list as JSON.
        kind: what a row should be.
        loose: makes one of a row that is something else, given what stands there and its place; or None.
        key: the list's name.
        name: the file's.

    Returns:
        The rows, and their text where some had to be made by `loose`.

    Raises:
        DataError: it is not a list.
    """
    try:
        return msgspec.json.decode(text, type=list[kind]), None  # type: ignore[valid-type]
    except msgspec.ValidationError:
        pass
    rows: list[Row] = []
    kept: list[bytes] = []
    for place, raw in _raw_rows(text, key, name):
        try:
            row: Row | None = msgspec.json.decode(raw, type=kind)
        except msgspec.ValidationError:
            row = loose(msgspec.json.decode(raw), place)
        if row is not None:
            rows.append(row)
            kept.append(bytes(raw))
    return rows, kept


def _raw_rows(text: msgspec.Raw | bytes, key: str, name: str) -> Iterator[tuple[str, msgspec.Raw]]:
    try:
        raws = msgspec.json.decode(text, type=list[msgspec.Raw])
    except msgspec.ValidationError:
        raise DataError(f'"{key}" is not a list', where=name) from None
    for i, raw in enumerate(raws):
        yield f"{key}[{i}]", raw


def image_row(row: Any, place: str, report: Report) -> ImageRow | None:
    """A row of `images` that is not as it should be."""
    number = _identity(row, "id")
    if number is None or not isinstance(row.get("file_name", ""), str):
        report("bad-image-row", f"{place}: {_fault(row, 'id', 'file_name')}")
        return None
    sides = []
    for key in ("width", "height"):
        side = whole(row.get(key, 0) or 0)
        if side is None or side < 0:
            text = f"image {number}: {key} {_short(row[key])} is not a whole number and is ignored"
            report("bad-size", text, "warning", number)
        sides.append(max(side or 0, 0))
    return ImageRow(number, row.get("file_name", ""), *sides)


def category_row(row: Any, place: str, report: Report) -> CategoryRow | None:
    """A row of `categories` that is not as it should be."""
    value = row.get("id") if isinstance(row, dict) else None
    number = whole(value)
    if number is None and isinstance(value, str) and value.isdecimal():
        number = int(value)
        report("bad-category", f'category id "{value}" is text; write it as a number')
    if number is None:
        report("bad-category", f"{place}: {_fault(row, 'id')}")
        return None
    name = row.get("name")
    color = row.get("color")
    parts = [whole(v) for v in color] if isinstance(color, list) else []
    good = len(parts) == 3 and all(v is not None and 0 <= v <= 255 for v in parts)
    if color is not None and not good:
        text = f"category {number}: color {_short(color)} is not three whole numbers 0…255 and is ignored"
        report("bad-color", text, "warning")
    isthing = whole(int(v) if isinstance(v := row.get("isthing"), bool) else v)
    if isthing is None and row.get("isthing") is not None:
        report("no-isthing", f'category {number} ("{name}"): isthing is {_short(row["isthing"])}, not 0 or 1')
        isthing = 0
    return CategoryRow(number, "" if name is None else str(name), isthing, tuple(parts) if good else None)  # type: ignore[arg-type]


def annotation_row(row: Any, place: str, report: Report) -> AnnotationRow | None:
    """A row of `annotations` that is not as it should be."""
    number = _identity(row, "image_id")
    if number is None or not isinstance(row.get("file_name"), str) or "segments_info" not in row:
        text = _fault(row, "image_id", "file_name", "segments_info")
        report("bad-annotation-row", f"{place}: {text}", image_id=number)
        return None
    return AnnotationRow(number, row["file_name"], msgspec.Raw(msgspec.json.encode(row["segments_info"])))


def segment_row(row: Any, image_id: int | str, report: Report) -> SegmentRow | None:
    """A row of `segments_info` that is not as it should be."""
    number, category = (whole(row.get(k)) if isinstance(row, dict) else None for k in ("id", "category_id"))
    if number is None or category is None or max(abs(number), abs(category)) > 1 << 53:
        text = f"image {image_id}: segment {_short(row)}: {_fault(row, 'id', 'category_id')}"
        report("bad-segment-row", text, image_id=image_id, segment_id=number)
        return None
    where = f"image {image_id}, segment {number}"
    crowd = row.get("iscrowd")
    told = {None: 0, "0": 0, "1": 1, False: 0, True: 1}
    flag = told.get(crowd) if crowd is None or isinstance(crowd, str | bool) else whole(crowd)
    if flag is None:
        text = f"{where}: iscrowd is {_short(crowd)}, not 0 or 1"
        report("bad-crowd", text, "error", image_id, number)
    elif isinstance(crowd, str):
        text = f"{where}: iscrowd is the text {_short(crowd)}; write it as a number"
        report("bad-crowd", text, "warning", image_id, number)
    area, box = row.get("area"), row.get("bbox")
    if area is not None and not _is_number(area):
        text = f"{where}: area {_short(area)} is not a number and is ignored"
        report("wrong-area", text, "warning", image_id, number)
        area = None
    if box is not None and not (isinstance(box, list) and len(box) == 4 and all(map(_is_number, box))):
        text = f"{where}: bbox {_short(box)} is not four numbers x, y, width, height and is ignored"
        report("wrong-bbox", text, "warning", image_id, number)
        box = None
    return SegmentRow(number, category, flag or 0, area, None if box is None else tuple(box))


def whole(value: Any) -> int | None:
    """The whole number that a JSON value is (1 and 1.0 alike), or None."""
    if isinstance(value, bool) or not _is_number(value):
        return None
    return int(value) if value == int(value) else None


def _identity(row: Any, key: str) -> int | str | None:
    value = row.get(key) if isinstance(row, dict) else None
    return value if isinstance(value, str) else whole(value)


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < 1 << 63  # also false for NaN


def _fault(row: Any, *keys: str) -> str:
    """What makes a row useless."""
    if not isinstance(row, dict):
        return f"{_short(row)} is not an object"
    if missing := [key for key in keys if key not in row]:
        names = " and ".join(f'"{key}"' for key in missing)
        return f"the key{'s' * (len(missing) > 1)} {names} {'are' if len(missing) > 1 else 'is'} missing"
    wrong = next((k for k in keys if k != "segments_info" and not _fits(k, row[k])), keys[0])
    kind = "text" if wrong == "file_name" else "a whole number"
    return f"{wrong} is {_short(row[wrong])}, not {kind}"


def _fits(key: str, value: Any) -> bool:
    return isinstance(value, str) if key == "file_name" else whole(value) is not None


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:59] + "…"
