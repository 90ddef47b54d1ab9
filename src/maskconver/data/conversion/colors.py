"""Colours of classes: the files that name them, and masks in colour as numbers."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.files import decoded, require_content
from ...core.segments import run_starts
from ...errors import DataError, one_line
from .annotation import Faults

Color = tuple[int, int, int]
VOID_NAMES = frozenset({"void", "unlabeled", "unlabelled", "ignore", "ignored"})
NEAR = 32
"""A colour no further than this in any channel from a class's is taken for a blurred one."""
LISTED = 20  # unknown colours are listed one by one up to so many
_FORM = "write one line per class, such as: road 128 64 128"
_END = re.compile(r"^(.*?)[\s,:;=]+(\d{1,3})[\s,;]+(\d{1,3})[\s,;]+(\d{1,3})\s*(?:[:,;].*)?$")
_START = re.compile(r"^(\d{1,3})[\s,;]+(\d{1,3})[\s,;]+(\d{1,3})[\s,:;=]+(.+)$")
_MORE = re.compile(r"^(\d{1,3}[\s,;]+){3}\d{1,3}(?![^\s,;])")
_TITLES = ("name", "class", "label", "category"), ("r", "red"), ("g", "green"), ("b", "blue")
_HEX = re.compile(r"#([0-9a-fA-F]{6})\b")


@dataclass(frozen=True)
class ColorTable:
    """Which colour is which class; a class may have several.

    Attributes:
        names: of the class of each colour.
        colors: RGB, 0…255.
        path: the file that says so, for messages.
    """

    names: list[str]
    colors: list[Color]
    path: str


def read_color_file(path: Path) -> ColorTable:
    """The colours of classes, from a file in one of the usual forms.

    JSON: `{"road": [128, 64, 128]}`, a list of `{"name": …, "color": [r, g, b] or "#rrggbb"}` (also below
    `classes` or `labels`), or `label_map` with `segmentation_colors`. Text with a line a class: `road 128 64
    128`, `128 64 128 road`, `road,128,64,128`, `road:128,64,128::` or `road #804080`. Where the first line
    titles the columns (`id,name,r,g,b`), it says which is what.

    Raises:
        DataError: no such file, a line or row that is not of these forms, or a colour of two classes.
    """
    where = str(path)
    require_content(path, "a file of colours", DataError)
    try:
        text = decoded(path.read_bytes())
    except OSError as error:
        raise DataError(f"cannot be read ({one_line(error)})", where=where) from None
    rows = _json_rows(text, where) if path.suffix.lower() == ".json" else _text_rows(text, where)
    names: dict[Color, str] = {}
    for name, color in rows:
        if names.setdefault(color, name) != name:
            shown = " ".join(map(str, color))
            raise DataError(f'the colour {shown} is that of "{names[color]}" and of "{name}"', where=where)
    if not names:
        raise DataError("names no colours", where=where, fix=_FORM)
    return ColorTable(list(names.values()), list(names), where)


def _text_rows(text: str, where: str) -> Iterable[tuple[str, Color]]:
    if columns := _titled(text):
        yield from _columns(text, columns, where)
        return
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if found := _HEX.search(line):
            name = (line[: found.start()] + line[found.end() :]).strip(" \t,:;=\"'")
            yield name, _color(f"#{found[1]}", where)
        elif line.startswith(("#", "//")) or not line:
            continue
        elif _MORE.match(line):
            what = f'line {number}, "{line[:40]}", begins with more than the three numbers of a colour'
            raise DataError(what, where=where, fix=f"{_FORM}; or title the columns: name,r,g,b")
        elif start := _START.match(line):
            yield start[4].strip(" \t\"'"), _color(list(map(int, start.groups()[:3])), where)
        elif end := _END.match(line):
            yield end[1].strip(" \t\"'"), _color(list(map(int, end.groups()[1:])), where)
        elif number > 1:  # the first may be a title
            raise DataError(
                f'line {number}, "{line[:40]}", names no class with a colour', where=where, fix=_FORM
            )


def _cells(line: str) -> list[str]:
    return next(csv.reader([line], delimiter=next((d for d in ";\t" if d in line), ",")), [])


def _titled(text: str) -> list[int]:
    """Where the columns of name, red, green and blue are, if the first line titles them; else []."""
    titles = [title.strip().lower() for title in _cells(text.partition("\n")[0])]
    found = [next((k for k, t in enumerate(titles) if t in words), -1) for words in _TITLES]
    return found if min(found) >= 0 else []


def _columns(text: str, columns: list[int], where: str) -> Iterable[tuple[str, Color]]:
    for number, line in enumerate(text.splitlines()[1:], 2):
        if not line.strip(" \t,;"):
            continue
        try:
            cells = _cells(line)
            name, *color = (cells[k].strip() for k in columns)
            yield name, _color([int(v) for v in color], where)
        except (IndexError, ValueError):
            what = f'line {number}, "{line[:40]}", has no name or no colour in its columns'
            raise DataError(what, where=where, fix=_FORM) from None


def _json_rows(text: str, where: str) -> Iterable[tuple[str, Color]]:
    try:
        content = json.loads(text)
        if isinstance(content, dict) and "segmentation_colors" in content:
            names = content["label_map"]
            names = [n for _, n in sorted(names.items(), key=lambda item: int(item[0]))]
            return [(str(n), _color(c, where)) for n, c in zip(names, content["segmentation_colors"])]
        if isinstance(content, dict):
            content = next((content[k] for k in ("classes", "labels") if k in content), content)
        if isinstance(content, dict):
            return [(str(name), _color(color, where)) for name, color in content.items()]
        return [(str(row["name"]), _color(row.get("color", row.get("hex")), where)) for row in content]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise DataError("is not a JSON file of class names and colours", where=where, fix=_FORM) from None


def _color(value: Any, where: str) -> Color:
    if isinstance(value, str) and _HEX.fullmatch(value):
        return int(value[1:3], 16), int(value[3:5], 16), int(value[5:], 16)
    if not is_color(value):
        raise DataError(f"the colour {value} is not three numbers from 0 to 255", where=where, fix=_FORM)
    return value[0], value[1], value[2]


def is_color(value: Any) -> bool:
    """Whether this is a list of three whole numbers 0…255."""
    return (
        isinstance(value, list)
        and len(value) == 3
        and all(isinstance(v, int) and 0 <= v <= 255 for v in value)
    )


@dataclass
class UnknownColors:
    """Colours of masks that are of no class: pixels, files and the first file of each.

    Attributes:
        found: by colour: pixels, files, the first file.
        near: the same of all colours that are nearly a class's, by its name.
        jpeg: the same of all colours of masks that are JPEGs.
    """

    found: dict[Color, list[Any]] = field(default_factory=dict)
    near: dict[str, list[Any]] = field(default_factory=dict)
    jpeg: list[Any] = field(default_factory=lambda: [0, 0, ""])

    def report(self, faults: Faults, where: str) -> None:
        """Says what was found, the most frequent first."""
        for pixels, files, first in [self.jpeg] * bool(self.jpeg[0]):
            text = f"{pixels} pixels of {files} masks that are JPEGs have colours of no class and are void"
            faults.add("jpeg-colours", first, f"{text}, as JPEG changes colours; export the masks as PNG")
        for name, (pixels, files, first) in sorted(self.near.items(), key=lambda item: -item[1][0]):
            text = f'{pixels} pixels of {files} masks have nearly the colour of "{name}" and are void'
            fix = "as after smoothing, or after saving as JPEG; export the masks as PNG"
            faults.add("near-colours", first, f"{text}, {fix}")
        rows = sorted(self.found.items(), key=lambda item: -item[1][0])
        for color, (pixels, files, first) in rows[:LISTED]:
            text = f"the colour {' '.join(map(str, color))} is of no class"
            faults.add("unknown-colour", first, f"{text}; {pixels} pixels of {files} masks are void")
        if rest := rows[LISTED:]:
            pixels = sum(row[0] for _, row in rest)
            text = f"{len(rest)} more colours of {pixels} pixels are of no class"
            faults.add("unknown-colour", where, text)


def to_numbers(
    colours: NDArray[np.uint8],
    table: ColorTable,
    unknown: UnknownColors,
    where: str,
    *,
    void: Iterable[Color] = (),
    jpeg: bool = False,
) -> NDArray[np.int32]:
    """A mask in colour as positions in the table.

    Args:
        colours: H×W×3.
        table: the classes' colours.
        unknown: takes colours that are not there.
        where: the mask, for messages.
        void: colours that mean no class.
        jpeg: whether the mask is a JPEG, so that colours that are not there mean nothing.

    Returns:
        H×W int32, -1 for void and unknown colours.
    """
    known = {_packed(c): k for k, c in enumerate(table.colors)} | {_packed(c): -1 for c in void}
    flat = (colours.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)).ravel()
    starts = run_starts(flat)
    lengths = np.diff(starts, append=flat.size)
    values, inverse = np.unique(flat[starts], return_inverse=True)
    counts = np.bincount(inverse, lengths, len(values)).astype(np.int64).tolist()
    numbers = np.array([known.get(v, -2) for v in values.tolist()], np.int32)
    if (numbers == -2).any():
        strange = [(v, n) for v, n, k in zip(values.tolist(), counts, numbers.tolist()) if k == -2]
        if jpeg:
            pixels, files, first = unknown.jpeg
            unknown.jpeg = [pixels + sum(n for _, n in strange), files + 1, first or where]
        else:
            _count(strange, table, unknown, where)
    return np.repeat(np.maximum(numbers, -1)[inverse], lengths).reshape(colours.shape[:2])


def _count(strange: list[tuple[int, int]], table: ColorTable, unknown: UnknownColors, where: str) -> None:
    packed = np.array([v for v, _ in strange])
    parts = np.stack([packed >> 16, packed >> 8 & 255, packed & 255], 1)
    distance = np.abs(parts[:, None] - np.array(table.colors)[None]).max(2)
    nearest = distance.argmin(1)
    here: dict[str, int] = {}
    for k, (color, (_, pixels)) in enumerate(zip(parts.tolist(), strange)):
        if distance[k, nearest[k]] <= NEAR:
            name = table.names[nearest[k]]
            here[name] = here.get(name, 0) + pixels
        elif len(unknown.found) < 100_000:
            _add(unknown.found, tuple(color), pixels, where)
    for name, pixels in here.items():
        _add(unknown.near, name, pixels, where)


def _add(rows: dict[Any, list[Any]], key: Any, pixels: int, where: str) -> None:
    row = rows.setdefault(key, [0, 0, where])
    row[0] += pixels
    row[1] += 1


def _packed(color: Color) -> int:
    return color[0] << 16 | color[1] << 8 | color[2]


def color_names(table: ColorTable) -> Mapping[str, Color]:
    """The first colour of each class that is not called void or the like."""
    found: dict[str, Color] = {}
    for name, color in zip(table.names, table.colors):
        if name.lower() not in VOID_NAMES:
            found.setdefault(name, color)
    return found
