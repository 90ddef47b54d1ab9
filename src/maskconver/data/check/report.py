"""What a data check found: the report of each split, and the counting behind it."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ...core.categories import Categories
from ...core.processes import process_pool
from ...io.panoptic_rows import Defect
from ...io.sources import FileSource
from .image import ImageFinding

Row = dict[str, Any]

Item = TypeVar("Item")
SIZE_BINS = (1, 16, 64, 256, 1024, 4096, 16384, 65536)
"""Lower limits of the size bins, pixels."""
PROPOSALS = (10, 20, 50, 100, 150, 200, 256, 400, 600, 800, 1000)


class Place(NamedTuple):
    """The files of an image; no PNG of ids where the annotation is another file."""

    images: FileSource
    image: str
    pngs: FileSource | None = None
    png: str = ""


@dataclass(slots=True)
class SplitReport:
    """What was found in one split.

    Attributes:
        split: its name; "" for a lone `panoptic.json`.
        panoptic_json: its file; of a label folder the file that names the classes.
        images: how many the file lists.
        annotated: how many of them have an annotation.
        segments: all listed segments; `crowds` of them are crowd.
        crowds: segments marked as crowd.
        classes: a row for every category: id, name, isthing, segments, images, pixels.
        size_bins: (lower limit, things, stuff) segments by area.
        segments_per_image: count of proposals that each annotated image asks for, by image id.
        pixels, void: pixels of all annotations, and how many of them have no class.
        defects: all of them.
        notes: what is worth a look without being a defect.
        images_path: where the images are.
        forms: how many images of each kind there are.
        looks: (image id, file, fingerprint) of each image.
        twins: of near-duplicates the split and image id of the other one.
        locate: from an image id to its files; None where there are none.
    """

    split: str
    panoptic_json: str
    images: int = 0
    annotated: int = 0
    segments: int = 0
    crowds: int = 0
    classes: list[Row] = field(default_factory=list)
    size_bins: list[tuple[int, int, int]] = field(default_factory=list)
    segments_per_image: dict[int | str, int] = field(default_factory=dict)
    pixels: int = 0
    void: int = 0
    defects: list[Defect] = field(default_factory=list)
    notes: list[Defect] = field(default_factory=list)
    images_path: str = ""
    forms: Counter[str] = field(default_factory=Counter)
    looks: list[tuple[int | str, str, bytes]] = field(default_factory=list)
    twins: dict[int | str, tuple[SplitReport, int | str]] = field(default_factory=dict)
    locate: Callable[[Any], Place | None] = field(default=lambda image_id: None, repr=False)

    @property
    def largest(self) -> tuple[int | str | None, int]:
        """(image id, segments) of the image with the most segments; crowd left out, each stuff class once."""
        counts = self.segments_per_image
        return max(counts.items(), key=lambda item: item[1]) if counts else (None, 0)

    def to_json(self) -> Row:
        """The figures and defects as plain JSON values."""
        image, most = self.largest
        counts = np.array([*self.segments_per_image.values()] or [0])
        return {
            "split": self.split,
            "panoptic_json": self.panoptic_json,
            "images": self.images,
            "unannotated": self.images - self.annotated,
            "segments": self.segments,
            "crowds": self.crowds,
            "void_share": self.void / self.pixels if self.pixels else 0.0,
            "classes": self.classes,
            "size_bins": [dict(zip(("from_area", "things", "stuff"), row)) for row in self.size_bins],
            "most_segments": {"image_id": image, "segments": most},
            "segments_p99": float(np.percentile(counts, 99)),
            "proposals": proposals_for(most),
            "defects": [d.to_json() for d in self.defects],
            "notes": [d.to_json() for d in self.notes],
        }


@dataclass(slots=True)
class Report:
    """What was found in a data set, split by split."""

    splits: list[SplitReport]

    @property
    def defects(self) -> list[Defect]:
        """Those of all splits, in order."""
        return [d for s in self.splits for d in s.defects]

    @property
    def notes(self) -> list[Defect]:
        """Those of all splits, in order."""
        return [d for s in self.splits for d in s.notes]

    def to_json(self) -> Row:
        """The whole report as plain JSON values."""
        kinds = Counter(d.kind for d in self.defects)
        return {
            "ok": not self.defects,
            "defects": kinds.total(),
            "defects_by_kind": dict(kinds.most_common()),
            "notes_by_kind": dict(Counter(d.kind for d in self.notes).most_common()),
            "splits": [s.to_json() for s in self.splits],
        }


def proposals_for(segments: int) -> int:
    """The usual number of proposals that is enough for an image with so many segments (at most 1000)."""
    return next((n for n in PROPOSALS if n >= segments), PROPOSALS[-1])


class Tally:
    """Adds what was found about each image to a report: defects, class counts, sizes, segments an image.

    Args:
        report: is filled, its figures by `finish`.
        categories: the label set; segments of other categories are not counted by class.
        max_segments: images with more segments are reported.
    """

    def __init__(self, report: SplitReport, categories: Categories, max_segments: int | None) -> None:
        self.report, self.categories, self.max_segments = report, categories, max_segments
        self.segments, self.images, self.pixels = Counter[int](), Counter[int](), Counter[int]()
        self.bins = np.zeros((2, len(SIZE_BINS)), np.int64)
        self.thing_ids = {c.id for c in categories if c.is_thing}

    def add(self, image_id: int | str, found: ImageFinding) -> None:
        """One image."""
        report = self.report
        report.defects += found.defects
        report.notes += found.notes
        report.looks.append((image_id, found.name, found.fingerprint))
        if found.form:
            report.forms[found.form] += 1
        report.pixels += found.pixels
        report.void += found.void
        things = {s[0] for s in found.segments} & self.thing_ids
        for category, area, crowd in found.segments:
            self.segments[category] += 1
            self.pixels[category] += area
            report.crowds += crowd
            if area:
                self.bins[0 if category in things else 1, bisect_right(SIZE_BINS, area) - 1] += 1
        self.images.update({s[0] for s in found.segments})
        stuff = {s[0] for s in found.segments} - things
        asked = sum(s[0] in things and not s[2] for s in found.segments) + len(stuff)
        report.segments_per_image[image_id] = asked
        if self.max_segments is not None and asked > self.max_segments:
            text = f"image {image_id} has {asked} segments, more than {self.max_segments}"
            report.defects.append(
                Defect("too-many-segments", report.panoptic_json, text, "warning", image_id)
            )

    def finish(self) -> None:
        """Puts the figures into the report."""
        self.report.segments = self.segments.total()
        self.report.size_bins = [(low, int(t), int(s)) for low, t, s in zip(SIZE_BINS, *self.bins)]
        self.report.classes = [
            {
                "id": c.id,
                "name": c.name,
                "isthing": int(c.is_thing),
                "segments": self.segments[c.id],
                "images": self.images[c.id],
                "pixels": self.pixels[c.id],
            }
            for c in self.categories
        ]


def tally(
    report: SplitReport,
    categories: Categories,
    findings: Iterable[tuple[int | str, ImageFinding]],
    *,
    max_segments: int | None,
    advance: Callable[[], Any] | None,
) -> None:
    """What was found about all images of a split, as `Tally` adds it; `advance` is called after each."""
    sums = Tally(report, categories, max_segments)
    for image_id, found in findings:
        sums.add(image_id, found)
        if advance:
            advance()
    sums.finish()


@contextmanager
def mapped(
    checker: Callable[[Item], ImageFinding], items: Iterable[Item], workers: int, count: int
) -> Iterator[Iterator[ImageFinding]]:
    """The findings in order, from this process or from several."""
    if workers <= 1 or count < 2:
        yield map(checker, items)
    else:
        with process_pool(workers) as pool:
            yield pool.map(checker, items, chunksize=max(1, min(32, count // (4 * workers))))
