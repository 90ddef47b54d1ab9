"""What the reader of an annotation format gives: images with shapes or an id map, and what was wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError

if TYPE_CHECKING:
    from .files import Files

T = TypeVar("T")
R = TypeVar("R")
Overlaps = Literal["small-on-top", "order", "score", "fail"]
Edges = Literal["touched", "centers"]
Images = Literal["link", "copy", "none"]
MAX_LISTED = 10_000
"""Faults are counted without end, but only so many are kept as text."""


@dataclass(frozen=True, slots=True)
class SourceClass:
    """A class as the source names it.

    Attributes:
        name: classes of one name are one class.
        is_thing: None where the format does not say; it is then a thing.
        color: RGB, 0…255, where the format has one.
        id: its number in the source; the output keeps them if they are all there, unique and 1 or more.
    """

    name: str
    is_thing: bool | None = None
    color: tuple[int, int, int] | None = None
    id: int | None = None


@dataclass(slots=True, eq=False)
class Shape:
    """An annotated region: exactly one of `polygons`, `mask` and `rle` is set.

    Attributes:
        name: its class, one of the reader's `classes`.
        polygons: arrays (N, 2) of x, y in pixels of the full image; pixel (0, 0) covers 0…1 in both.
        rule: how several polygons join: `even-odd` (a polygon inside another is a hole) or `union`.
        mask: (h, w) bool, with its upper left corner at `offset`; it may reach beyond the image.
        offset: (x, y) in pixels.
        rle: COCO run lengths, `{"size": [height, width], "counts": list | str | bytes}`, of the full image.
        crowd: a region of uncounted objects (COCO's iscrowd).
        area: in square pixels as the annotation states it, for `overlaps="small-on-top"`; that of its pixels
            counts where it is None.
        score: 0…1, for `overlaps="score"`.
        layer: a shape of a higher layer lies on those of lower ones, whatever the rule for overlaps.
        group: shapes of one image with the same group and class are parts of one object.
        entry: what messages call it, e.g. `annotation 17`.
        relative: the format has fractions of the image, so that polygons within one pixel are no mistake.
    """

    name: str
    polygons: list[NDArray[np.float64]] | None = None
    rule: Literal["even-odd", "union"] = "union"
    mask: NDArray[np.bool_] | None = None
    offset: tuple[int, int] = (0, 0)
    rle: Mapping[str, Any] | None = None
    crowd: bool = False
    area: float | None = None
    score: float | None = None
    layer: int = 0
    group: Hashable | None = None
    entry: str = ""
    relative: bool = False


@dataclass(frozen=True, slots=True)
class IdSegment:
    """A segment of a ready id map: its value there (1 or more), its class, whether it is a crowd."""

    id: int
    name: str
    crowd: bool = False


@dataclass(slots=True, eq=False)
class AnnotatedImage:
    """One image with its annotation, either as `shapes` in file order or as `ids` with `segments`.

    Attributes:
        name: of the image in the source, with `/`; its last part names the output.
        path: the image's file (from `Files.image`); None where there is none.
        data: the content of the image's file where the annotation holds it; `path` is then None.
        where: what messages call the annotation, e.g. `labels/0001.txt`.
        split: the one it belongs to in the source; "" where there are none.
        width, height: in pixels as the annotation states them; None where it does not.
        shapes: the regions, in file order.
        ids: (H, W) int32, 0 = without annotation, -1 = void whatever the background; then `shapes` is empty.
        segments: every id of `ids`.
        info: further keys for the image's row in the JSON, e.g. `{"photograph": "a17"}`.
    """

    name: str
    path: Path | None
    where: str
    split: str = ""
    width: int | None = None
    height: int | None = None
    shapes: list[Shape] = field(default_factory=list)
    ids: NDArray[np.int32] | None = None
    segments: list[IdSegment] = field(default_factory=list)
    info: dict[str, Any] = field(default_factory=dict)
    data: bytes | None = None


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that was left out: its kind (`missing-image`), the file and entry, and what is wrong."""

    kind: str
    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.where}: {self.text}"


class Faults:
    """What was left out (`errors`, exit code 1) and what was only noticed (`notes`), counted by kind.

    Attributes:
        errors, notes: counts by kind.
        listed: the first errors of all, as they are to be printed.
    """

    def __init__(self) -> None:
        self.errors: Counter[str] = Counter()
        self.notes: Counter[str] = Counter()
        self.listed: list[Fault] = []

    def add(self, kind: str, where: str, text: str) -> None:
        """An image, file or shape is left out; `kind` is a short name, `where` file and entry."""
        self.errors[kind] += 1
        if len(self.listed) < MAX_LISTED:
            self.listed.append(Fault(kind, where, text))

    def reject(self, error: DataError, where: str) -> None:
        """The same for an error that was raised; `where` unless it says itself."""
        self.add(error.kind or "unreadable", error.where or where, error.text)

    def note(self, kind: str, count: int = 1) -> None:
        """Something worth a count, such as `clipped-polygons`."""
        if count:
            self.notes[kind] += count


@dataclass(frozen=True)
class Options:
    """How to convert; see `convert`, which documents each."""

    things: tuple[str, ...] = ()
    stuff: tuple[str, ...] = ()
    overlaps: Overlaps = "small-on-top"
    background: str | None = None
    merge_stuff: bool = True
    split: str | Mapping[str, float] | None = None
    group: str | None = None
    seed: int = 0
    images: Images = "link"
    image_folder: Path | None = None
    max_side: int | None = None
    edges: Edges | None = None
    colors: Path | None = None
    class_attribute: str | None = None


def readable(read: Callable[[T], R], rows: Iterable[T]) -> Iterator[R]:
    """What is read of each row, without those that cannot be read: `Reader.images` lists them later."""
    for row in rows:
        with suppress(DataError):
            yield read(row)


class Reader:
    """A format. Subclasses set `name` and `title` and are listed in `registry.FORMATS`.

    The constructor reads what it needs to fill `classes` and raises `DataError` only where nothing can be
    converted at all. `images` is lazy: memory must not grow with the set (a JSON may be held compactly). A
    bad file or entry is given to `faults` and left out; reading goes on. A format of one file per image sets
    `names` and defines `one`; others define `images`.

    Attributes:
        name: for `--from`, e.g. `yolo-seg`.
        edges: how the pixels of its polygons are found unless the options say; `centers` where points lie
            anywhere in a pixel, not on its number.
        title: for people, e.g. `YOLO segmentation`.
        generic: it is only recognised where no other format is.
        includes: formats that files of this one also look like.
        classes: in the order of the source.
        faults: what was left out.
        decisions: one plain sentence for everything that was decided about the source as a whole, e.g.
            `category 0 "facade" is used by no annotation and is left out`.
        names: of the files that `one` reads.
        count: how many images there will be, for the progress bar; 0 if unknown, or one for each of `names`.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    edges: ClassVar[Edges] = "touched"
    generic: ClassVar[bool] = False
    includes: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, files: Files, options: Options) -> None:
        self.files, self.options = files, options
        self.classes: list[SourceClass] = []
        self.faults = Faults()
        self.decisions: list[str] = []
        self.names: list[str] = []
        self.count = 0

    def image(self, name: str, *near: str, by_stem: bool = False) -> Path | None:
        """As `Files.image`; None instead of an error where no image files are wanted (`images="none"`).

        Raises:
            DataError: no such image, or more than one.
        """
        try:
            return self.files.image(name, *near, by_stem=by_stem)
        except DataError:
            if self.options.images == "none":
                return None
            raise

    @classmethod
    def detect(cls, files: Files) -> str | None:
        """Why the files are of this format (`data.yaml and labels/train/0001.txt`); None if they are not.

        Must be quick: looks at names and at the beginnings of a few files.
        """
        raise NotImplementedError

    def images(self) -> Iterator[AnnotatedImage]:
        """The images, one after the other."""
        for name in self.names:
            try:
                yield self.one(name)
            except DataError as error:
                self.faults.reject(error, self.files.where(name))

    def one(self, name: str) -> AnnotatedImage:
        """The image of one annotation file.

        Raises:
            DataError: it is left out.
        """
        raise NotImplementedError
