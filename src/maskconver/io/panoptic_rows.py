"""The rows of a COCO panoptic JSON as typed structs, and decoding with errors that fit on one line."""

from __future__ import annotations

from typing import Any

import msgspec

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
