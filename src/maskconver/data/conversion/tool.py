"""What the readers of labelling tools share: values that may be spoiled, outlines, masks in PNGs, XML."""

from __future__ import annotations

import base64
import binascii
import codecs
import io
import math
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from xml.etree import ElementTree as ET

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...core.files import MAX_PIXELS
from ...errors import DataError, ImageError, one_line
from ...io.images import image_size
from .annotation import Options, Reader, Shape
from .files import Files
from .geometry import polygon
from .splits import split_name

NO_AREA = "points-and-lines"
"""What is counted where a shape covers no pixels: a point, a line, a tag of the image."""
LOOKED_AT = 50
"""A format is recognised by one of the first so many files with its ending."""
_CHUNK = 1 << 20
_Entry = TypeVar("_Entry")


class ToolReader(Reader):
    """A reader whose images hold shapes, each of which may be spoiled by itself."""

    edges = "centers"

    def __init__(self, files: Files, options: Options) -> None:
        super().__init__(files, options)
        self._taken: set[str] = set()

    def image(self, name: str, *near: str, by_stem: bool = False) -> Path | None:
        """As in `Reader`; an image can be taken once.

        Raises:
            DataError: no such image, more than one, or an annotation before had it.
        """
        path = super().image(name, *near, by_stem=by_stem)
        if path and str(path) in self._taken:
            raise DataError(f'the image "{name}" has an annotation already', kind="duplicate-image")
        self._taken.add(str(path))
        return path

    def shapes(
        self, entries: Iterable[tuple[str, _Entry]], where: str, make: Callable[[_Entry], Shape | str | None]
    ) -> list[Shape]:
        """The shapes that `make` gives; one that cannot be read becomes a fault.

        Args:
            entries: how messages call each entry (`shape 3`), and the entry.
            where: what messages call the annotation.
            make: from an entry to its shape; or to what is counted in its place; or to None.
        """
        shapes = []
        for label, entry in entries:
            try:
                shape = make(entry)
                if isinstance(shape, Shape) and not all(np.isfinite(p).all() for p in shape.polygons or ()):
                    raise DataError("a coordinate or angle is NaN or infinite", kind="bad-polygon")
            except DataError as error:
                self.faults.add(error.kind or "bad-shape", f"{where}, {label}", error.text)
            except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
                why = f"no {error}" if isinstance(error, KeyError) else one_line(error)[:80]
                what = f"not as {self.title} writes it ({why})"
                self.faults.add("bad-shape", f"{where}, {label}", what)
            else:
                if isinstance(shape, Shape):
                    shape.entry = label
                    shapes.append(shape)
                elif shape:
                    self.faults.note(shape)
        return shapes


def mapping(value: Any) -> dict[str, Any]:
    """The value if it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def items(value: Any) -> list[Any]:
    """The value if it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def with_head(
    files: Files, suffix: str, pattern: str, *, refuse: str = "$^", limit: int | None = None
) -> list[str]:
    """The files with the ending whose beginnings match `pattern`, not `refuse`; of the first `limit` only."""

    def fits(name: str) -> bool:
        head = files.head(name, 1 << 16)
        return bool(re.search(pattern, head)) and not re.search(refuse, head)

    return [name for name in files.matching(suffix)[:limit] if fits(name)]


def first_with_head(files: Files, suffix: str, pattern: str, *, refuse: str = "$^") -> str:
    """The first such file, looked for in the first `LOOKED_AT` only; "" if there is none."""
    return next(iter(with_head(files, suffix, pattern, refuse=refuse, limit=LOOKED_AT)), "")


def class_name(value: Any) -> str:
    """The name of a class, without blanks around it.

    Raises:
        DataError: there is none.
    """
    name = " ".join(str(value).split()) if isinstance(value, str | int | float) else ""
    if not name:
        raise DataError("has no class", kind="no-class")
    return name


def hex_color(value: Any) -> tuple[int, int, int] | None:
    """The colour that `#ff8000` names; None for anything else."""
    if not isinstance(value, str) or not re.fullmatch("#[0-9a-fA-F]{6}", value.strip()):
        return None
    red, green, blue = bytes.fromhex(value.strip()[1:])
    return red, green, blue


def split_of(name: str) -> str:
    """`train`, `val` or `test` where a folder of the path is called so (or `valid` …), else ""."""
    return next((s for s in map(split_name, name.split("/")) if s in ("train", "val", "test")), "")


def group_id(value: Any) -> int | str | None:
    """A number or text that shapes of one object share; None for none. Whole numbers may have a point."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int | str) and value != "" else None


def is_crowd(values: Any) -> bool:
    """Whether attributes or flags say so."""
    found = {str(k).lower(): str(v).strip().lower() for k, v in mapping(values).items()}
    return any(found.get(key) in ("1", "true", "yes") for key in ("crowd", "iscrowd", "is_crowd"))


def size(value: Any) -> int | None:
    """A width or height; None unless it is a whole number above 0."""
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if number > 0 and number == float(value) else None


def number(value: Any) -> float:
    """A coordinate.

    Raises:
        DataError: `bad-polygon`: missing, text, or not finite.
    """
    if value is None:
        raise DataError("a coordinate is missing", kind="bad-polygon")
    return float(polygon([value, 0], 1)[0, 0])


def floats(texts: Iterable[str | None]) -> list[float]:
    """Coordinates of a format in which all is text.

    Raises:
        DataError: `bad-polygon`: missing or no numbers.
    """
    try:
        return [float(text or "") for text in texts]
    except ValueError:
        raise DataError("a coordinate is missing or not a number", kind="bad-polygon") from None


def pairs(values: Any, least: int) -> NDArray[np.float64]:
    """(N, 2) of x, y of a list of at least so many pairs, all of which are kept.

    Raises:
        DataError: `bad-polygon`.
    """
    if not isinstance(values, list) or len(values) < least:
        raise DataError(f"does not have {least} points", kind="bad-polygon")
    return np.concatenate([polygon(value, 1) for value in values])


def turned(corners: NDArray[np.float64], around: tuple[float, float], angle: float) -> NDArray[np.float64]:
    """Points turned clockwise around another, by an angle in degrees."""
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    return (corners - around) @ np.array([[c, s], [-s, c]]) + around


def runs_to_mask(counts: Iterable[int], height: int, width: int) -> NDArray[np.bool_]:
    """(height, width) bool of run lengths of background and object in turn, row after row.

    Raises:
        DataError: negative runs, or their sum is not the number of pixels.
    """
    if not 0 < height * width <= MAX_PIXELS or height < 0:
        raise DataError(f"a mask of {width}×{height} pixels is not possible", kind="broken-mask")
    lengths = np.array(list(counts), np.int64)
    if (lengths < 0).any() or lengths.sum() != height * width:
        what = f"its runs add up to {lengths.sum()} pixels, its box has {height * width}"
        raise DataError(what, kind="broken-mask")
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(height, width)


def base64_bytes(text: Any, what: str) -> bytes:
    """The bytes that a base64 text holds, also one of the form `data:image/png;base64,…`.

    Raises:
        DataError: it is none.
    """
    try:
        return base64.b64decode(str(text).rpartition("base64,")[2].encode("ascii"), validate=False)
    except (binascii.Error, ValueError):
        raise DataError(f"{what} is not base64", kind="broken-mask") from None


def png_mask(data: bytes) -> NDArray[np.bool_]:
    """(H, W) bool of the bytes of an image: where its alpha, or without alpha any colour, is not 0.

    Raises:
        DataError: not a sound image, or one that is too large.
    """
    try:
        height, width = image_size(data, name="its mask")
        if height * width > MAX_PIXELS:
            raise DataError(f"its mask has {width}×{height} pixels", kind="broken-mask")
        with Image.open(io.BytesIO(data), formats=("PNG", "BMP", "TIFF", "WEBP", "GIF")) as image:
            values = np.asarray(image.convert("RGBA") if image.mode == "P" else image)
            if image.mode == "P" and "transparency" not in image.info:
                values = values[..., :3]  # the colours count, not the alpha that no pixel lacks
    except (ImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"its mask is not a readable PNG ({one_line(error)})", kind="broken-mask") from None
    if values.ndim == 2:
        return values > 0
    return np.any(values[..., -1:] if values.shape[2] in (2, 4) else values, axis=2)


def xml_elements(files: Files, name: str, *tags: str) -> Iterator[ET.Element]:
    """The elements with these tags, one by one as they end; what was given is cleared at the next step.

    Memory grows with the largest element, not with the file. Documents with a document type or entities are
    refused: they can name other files and grow without bounds.

    Raises:
        DataError: cannot be read, not XML, or with a document type.
    """
    path, where = files.path(name), files.where(name)
    parser: Any = ET.XMLPullParser(("start", "end"))
    root: ET.Element | None = None
    inside = 0
    try:
        for text in _texts(path, where):
            parser.feed(text)
            for event, element in parser.read_events():
                if root is None:
                    root = element
                if element.tag not in tags:
                    continue
                inside += 1 if event == "start" else -1
                if event == "end" and not inside:
                    yield element
                    element.clear()
                    if element is not root:
                        root[:] = [child for child in root if child is not element]
        parser.close()
    except ET.ParseError as error:
        raise DataError(f"is not XML ({one_line(error)})", where=where) from None
    except OSError as error:
        raise DataError(f"cannot be read ({one_line(error)})", where=where) from None
    if root is None:
        raise DataError("is empty", where=where)


def _texts(path: Path, where: str) -> Iterator[str]:
    encoding = _encoding(path)
    with path.open(encoding=encoding, errors="replace", newline="") as file:
        before = ""
        while text := file.read(_CHUNK):
            if re.search("<!(doctype|entity)", before + text, re.IGNORECASE):
                raise DataError(
                    "has a document type or entities, which are refused",
                    where=where,
                    fix="remove the lines <!DOCTYPE …> and <!ENTITY …>",
                    kind="document-type",
                )
            before = text[-16:]
            yield text


def _encoding(path: Path) -> str:
    """UTF-16 by its mark; UTF-8 if all is; else what the file says; else Windows-1252."""
    with path.open("rb") as file:
        head = file.read(200)
        if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
            return "utf-16"
        file.seek(0)
        decoder = codecs.getincrementaldecoder("utf-8")()
        try:
            while chunk := file.read(_CHUNK):
                decoder.decode(chunk)
            decoder.decode(b"", final=True)
            return "utf-8-sig"
        except UnicodeDecodeError:
            pass
    said = re.search(rb"encoding=[\"']([\w.-]+)", head)
    try:
        name = codecs.lookup(said[1].decode()).name if said else ""
    except LookupError:
        name = ""
    return name if name and not name.startswith("utf") else "cp1252"


def same_folder(name: str, *more: str) -> str:
    """A folder beside a file of the source, relative to the source: `same_folder("a/b.xml", "images")`."""
    return posixpath.join(posixpath.dirname(name), *more)
