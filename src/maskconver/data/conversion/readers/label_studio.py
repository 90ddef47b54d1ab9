"""Label Studio: the JSON and JSON-MIN exports."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
from numpy.typing import NDArray

from ....core.files import IMAGE_SUFFIXES, MAX_PIXELS
from ....errors import DataError, ImageError
from ....io.images import image_size
from ..annotation import AnnotatedImage, Options, Shape, SourceClass, readable
from ..files import Files, plain_name
from ..geometry import box, ellipse, polygon
from ..tool import (
    NO_AREA,
    ToolReader,
    base64_bytes,
    class_name,
    first_with_head,
    items,
    mapping,
    number,
    png_mask,
    same_folder,
    size,
    split_of,
    turned,
    with_head,
)

_MARKS = "file_upload|completed_by|was_cancelled|annotation_id|lead_time|completions|from_name|[a-z]+labels"
_FORM = rf'^\s*[\[{{][\s\S]*"({_MARKS})"\s*:'
_OTHER = r'"categories"\s*:|"_via_|"shape_attributes"|"shapes"\s*:'
_OF_ENTRY = ("id", "original_width", "original_height", "image_rotation", "score")


class LabelStudio(ToolReader):
    """Label Studio's tasks.

    Of several annotations of a task, the one marked as ground truth counts, else the latest that was not
    skipped; predictions are left out. Polygons, rectangles and ellipses are in percent of the image; brush
    masks have run lengths of their own (`brush_mask`).
    """

    name = "label-studio"
    title = "Label Studio"

    def __init__(self, files: Files, options: Options) -> None:
        super().__init__(files, options)
        names = with_head(files, ".json", _FORM, refuse=_OTHER) or files.matching(".json")
        self._tasks = [(n, *task) for n in names for task in self._read(n)]
        self.count = len(self._tasks)
        areas = (region for *_, regions in self._tasks for region in regions if _kind(region))
        self.classes = [SourceClass(n) for n in dict.fromkeys(readable(_label, areas))]
        if not self.classes and not self.faults.listed:
            raise DataError(
                "no annotation holds an area with a class; predictions do not count",
                where=files.where(names[0] if len(names) == 1 else files.only),
                fix="accept the predictions in Label Studio and export again",
            )

    @classmethod
    def detect(cls, files: Files) -> str | None:
        name = first_with_head(files, ".json", _FORM, refuse=_OTHER)
        return f"{name} holds Label Studio's tasks" if name else None

    def images(self) -> Iterator[AnnotatedImage]:
        for name, task, image, regions in self._tasks:
            where = f"{self.files.where(name)}, {task}"
            try:
                yield self._one(name, where, image, regions)
            except DataError as error:
                self.faults.reject(error, where)

    def _one(self, name: str, where: str, image: Any, regions: list[dict[str, Any]]) -> AnnotatedImage:
        if not isinstance(image, str):
            raise DataError("is not a task of one image", kind="missing-image")
        wanted = _image_name(image)
        # An upload puts something in front; an address that is none may hold + and # as they are.
        written = posixpath.basename(unquote(image.replace("\\", "/").rpartition("?d=")[2]))
        own = (re.sub(r"^[0-9a-f]{8}-", "", n) for n in (posixpath.basename(wanted), written))
        path, fault = None, None
        for tried in dict.fromkeys((wanted, *own, written)):
            try:
                path = self.image(tried, same_folder(name, "images"), same_folder(name))
                break
            except DataError as error:
                if error.kind != "missing-image":
                    raise
                fault = fault or error
        else:
            assert fault is not None
            raise fault
        said = {(size(r.get("original_width")), size(r.get("original_height"))) for r in regions}
        sizes = [s for s in said if all(s)]
        if len(sizes) > 1:
            raise DataError("its regions were drawn on images of several sizes", kind="size-mismatch")
        width, height = sizes[0] if sizes else (None, None)
        if regions and width is None and path:
            try:
                height, width = image_size(path)
            except ImageError as error:
                raise DataError(error.text, kind="unreadable-image") from None

        def make(region: dict[str, Any]) -> Shape | str | None:
            own = size(region.get("original_width")) or width, size(region.get("original_height")) or height
            return self._shape(region, *own)

        return AnnotatedImage(
            name=plain_name(wanted) if path is None else path.name,
            path=path,
            where=where,
            split=split_of(name),
            width=width,
            height=height,
            shapes=self.shapes(
                ((f"region {r.get('id') or n}", r) for n, r in enumerate(regions, 1)), where, make
            ),
        )

    def _shape(self, region: dict[str, Any], width: int | None, height: int | None) -> Shape | str | None:
        kind = _kind(region)
        if not kind:
            return NO_AREA if any(k.endswith("labels") for k in region) else None
        if width is None or height is None:
            raise DataError("does not say the size of the image, and there is no image", kind="no-size")
        if number(region.get("image_rotation") or 0):
            raise DataError("the image was turned in Label Studio", kind="turned-image")
        score = region.get("score")
        shape = Shape(
            _label(region),
            score=float(score) if isinstance(score, int | float) and 0 <= score <= 1 else None,
        )

        def x(key: str) -> float:
            return number(region.get(key)) * width / 100

        def y(key: str) -> float:
            return number(region.get(key)) * height / 100

        if kind == "brush":
            shape.mask = brush_mask(region["rle"], height, width)
            return shape
        if kind == "bitmask":
            shape.mask = png_mask(base64_bytes(region["imageDataURL"], "`imageDataURL`"))
            if shape.mask.shape != (height, width):
                raise DataError(f"its mask does not have {width}×{height} pixels", kind="broken-mask")
            return shape
        angle = number(region.get("rotation") or 0)
        if kind == "polygon":
            outline = polygon(region["points"]) * (width / 100, height / 100)
        elif kind == "ellipse":
            outline = ellipse(x("x"), y("y"), x("radiusX"), y_radius=y("radiusY"), angle=angle)
        else:
            corner = x("x"), y("y")
            outline = turned(box(*corner, x("width"), y("height")), corner, angle)
        shape.polygons, shape.relative = [outline], True
        return shape

    def _read(self, name: str) -> Iterator[tuple[str, Any, list[dict[str, Any]]]]:
        """The tasks of a file: what messages call them, the image, its regions."""
        where = self.files.where(name)
        try:
            content = self.files.json(name)
            if not isinstance(content, list | dict):
                raise DataError("is not a list of tasks", where=where, kind="other-json")
        except DataError as error:
            return self.faults.reject(error, where)
        rows = content if isinstance(content, list) else [content]
        small: dict[str, list[dict[str, Any]]] = {}
        for position, row in enumerate(rows):
            if not isinstance(row, dict):
                self.faults.add("bad-entry", where, f"{str(row)[:40]!r} is not a task")
                continue
            task = mapping(row.get("task")) or row  # in a file of one annotation
            label = f"task {task.get('id', position)}"
            if "data" in task:
                old = task.get("completions")  # of versions before 1.0
                chosen = self._chosen([row] if task is not row else task.get("annotations", old))
                if chosen is None:
                    self.faults.note("tasks-without-annotation")
                    continue
                yield label, _image_of(task["data"]), self._merged(chosen.get("result"), f"{where}, {label}")
            else:
                small.setdefault(label, []).append(row)
        for label, versions in small.items():
            if (chosen := self._chosen(versions)) is not None:
                regions = [r for v in chosen.values() for r in items(v) if isinstance(r, dict)]
                yield label, _image_of(chosen), regions

    def _merged(self, result: Any, where: str) -> list[dict[str, Any]]:
        """The regions of an annotation: the shape and the label of one may be two entries with one id."""
        regions: dict[str, dict[str, Any]] = {}
        for position, entry in enumerate(items(result)):
            if not isinstance(entry, dict):
                self.faults.add("bad-entry", where, f"{str(entry)[:40]!r} is not a region")
            elif entry.get("type") != "relation":
                own = {k: v for k, v in entry.items() if k in _OF_ENTRY}
                value = mapping(entry.get("value"))
                with suppress(KeyError, TypeError, ValueError):  # an eighth of the memory
                    value["rle"] = bytes([*value["rle"]])
                regions.setdefault(str(entry.get("id") or position), {}).update({**value, **own})
        return list(regions.values())

    def _chosen(self, annotations: Any) -> dict[str, Any] | None:
        """The one that counts; None if there is none."""
        rows = [r for r in map(mapping, items(annotations)) if r and not r.get("was_cancelled")]
        self.faults.note("further-annotations-of-a-task", max(len(rows) - 1, 0))
        return max(
            rows, key=lambda r: (bool(r.get("ground_truth")), str(r.get("updated_at") or "")), default=None
        )


def brush_mask(rle: Any, height: int, width: int) -> NDArray[np.bool_]:
    """(height, width) bool of a brush region: where the alpha of its RGBA pixels is at least half.

    The bytes are a stream of bits: the number of values (32), the bits of a value less 1 (5), four lengths
    less 1 (4 each), then blocks of one bit (the same value again and again, or each by itself), two bits
    (which of the four lengths the count has), the count less 1, and the value or values. It is the format of
    the package rle-pack of thi.ng/umbrella.

    Raises:
        DataError: not such bytes, cut off, or not of this size.
    """
    try:
        data = bytes(rle if isinstance(rle, bytes) else [*rle])
    except (TypeError, ValueError):
        raise DataError("its run lengths are not a list of bytes", kind="broken-mask") from None
    at, end = 0, 8 * len(data)

    def read(bits: int) -> int:
        nonlocal at
        start, at = at, at + bits
        if at > end:
            raise DataError("its run lengths are cut off", kind="broken-mask")
        return int.from_bytes(data[start >> 3 : (at + 7) >> 3], "big") >> (-at % 8) & ((1 << bits) - 1)

    total, word = read(32), read(5) + 1
    if total != 4 * height * width or word != 8 or height * width > MAX_PIXELS:
        what = f"its run lengths are of {total // 4} pixels, the image has {width}×{height}"
        raise DataError(what, kind="broken-mask")
    lengths = [read(4) + 1 for _ in range(4)]
    values = np.empty(total, np.uint8)
    done = 0
    while done < total:
        same = read(1)
        count = read(lengths[read(2)]) + 1
        if done + count > total:
            raise DataError("its run lengths cover too many pixels", kind="broken-mask")
        if same:
            values[done : done + count] = read(8)
        else:
            start, at = at, at + 8 * count
            if at > end:
                raise DataError("its run lengths are cut off", kind="broken-mask")
            bits = np.unpackbits(np.frombuffer(data, np.uint8)[start >> 3 : (at + 7) >> 3])
            values[done : done + count] = np.packbits(bits[start % 8 :][: 8 * count])
        done += count
    return values[3::4].reshape(height, width) > 127


def _kind(region: dict[str, Any]) -> str:
    """What region it is, by the values it has; "" for one without an area."""
    if "points" in region:
        return "polygon"
    if "rle" in region:
        return "brush"
    if "imageDataURL" in region:
        return "bitmask"
    if "radiusX" in region:
        return "ellipse"
    return "rectangle" if {"x", "y", "width", "height"} <= region.keys() else ""


def _label(region: dict[str, Any]) -> str:
    labels = [v for k, v in region.items() if k.endswith("labels")]
    names = labels[0] if labels else None
    if isinstance(names, list) and len(names) > 1:
        raise DataError(f"has several classes: {', '.join(map(str, names))}", kind="several-classes")
    return class_name(names[0] if isinstance(names, list) and names else names)


def _image_of(data: Any) -> Any:
    """The address of the image among a task's data."""
    values = mapping(data)
    texts = [v for v in (values.get("image"), *values.values()) if isinstance(v, str)]
    named = (t for t in texts if posixpath.splitext(_image_name(t))[1].lower() in IMAGE_SUFFIXES)
    return next(named, values.get("image"))


def _image_name(address: str) -> str:
    """The path in an address: of an upload, a local file (`…?d=path`), a URL or a bucket."""
    try:
        parts = urlsplit(address.replace("\\", "/"))
        local = parse_qs(parts.query).get("d")
    except ValueError:
        return address
    return local[0] if local else unquote(parts.path)
