"""What the writer of a format gets: an image with its segments, and the folder that is being written."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ...core.categories import Categories
from ...core.files import linked
from ...core.polygons import Polygon, Ring, ids_to_polygons
from ...core.segmentation import Segmentation
from ...core.segments import Segment
from .geometry import simplified

Images = Literal["copy", "link", "none"]


@dataclass(eq=False)
class Item:
    """One image to write.

    Attributes:
        result: the segments that have pixels, and their map.
        name: of the image, with `/` between folders; its stem is unique in its split.
        split: "" where there is none.
        image: where the file is, or what gives its bytes; None where it is not there.
        image_id: in the data set, if it is from one.
        crowd: ids of the segments that stand for uncounted objects.
        scored: whether scores mean something: these are results of a model.
        simplify: tolerance of the polygons in pixels.
    """

    result: Segmentation
    name: str
    split: str = ""
    image: Path | Callable[[], bytes] | None = None
    image_id: int | str | None = None
    crowd: frozenset[int] = frozenset()
    scored: bool = False
    simplify: float = 0.0

    @property
    def stem(self) -> str:
        """The name without its ending."""
        return str(PurePosixPath(self.name).with_suffix(""))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.result.ids.shape[0], self.result.ids.shape[1]

    @cached_property
    def polygons(self) -> dict[int, list[Polygon]]:
        """The polygons of each segment; exact unless `simplify` says otherwise."""
        found = ids_to_polygons(self.result.ids)
        if not self.simplify:
            return found
        return {
            key: [
                (simplified(outer, self.simplify), [simplified(h, self.simplify) for h in holes])
                for outer, holes in parts
            ]
            for key, parts in found.items()
        }

    def single_ring(self, segment: Segment) -> Ring | None:
        """The polygon of a segment in one part without holes; None of any other."""
        parts = self.polygons[segment.id]
        return parts[0][0] if len(parts) == 1 and not parts[0][1] else None

    def crop(self, segment: Segment) -> NDArray[np.bool_]:
        """The mask of a segment inside its box."""
        x, y, width, height = segment.bbox
        return self.result.ids[y : y + height, x : x + width] == segment.id


@dataclass
class Output:
    """The folder that is being written.

    Attributes:
        folder: where files go now; it takes its name when all is written.
        final: that name.
        categories: of all images.
        images: how image files are put there.
        notes: what the format cannot hold, and how often that was so.
    """

    folder: Path
    final: Path
    categories: Categories
    images: Images = "copy"
    notes: Counter[str] = field(default_factory=Counter)

    def note(self, text: str, count: int = 1) -> None:
        """Counts something that the format cannot hold."""
        if count:
            self.notes[text] += count

    def note_crowd(self, item: Item, text: str = "crowd regions are written as ordinary objects") -> None:
        """Counts the crowd regions of an image."""
        self.note(text, len(item.crowd))

    def place(self, item: Item, name: str) -> str:
        """Puts the image at a name in the folder.

        Returns:
            How a file beside it names it: the last part of `name`, or the way to where the image lies where
            none is put there.
        """
        source, target = item.image, self.folder / name
        if self.images != "none" and source is not None:
            target.parent.mkdir(parents=True, exist_ok=True)
            if callable(source):
                target.write_bytes(source())
            elif self.images == "copy" or not linked(source, target):
                shutil.copyfile(source, target)
        elif isinstance(source, Path):
            return Path(os.path.relpath(source, (self.final / name).parent)).as_posix()
        return PurePosixPath(name).name

    def write(self, name: str, text: str) -> None:
        """Writes a text file."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def below(*parts: str) -> str:
    """A path of those parts that are not empty."""
    return "/".join(p for p in parts if p)
