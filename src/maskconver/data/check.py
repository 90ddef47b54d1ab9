"""`check_dataset`: every defect of a panoptic data set, and the figures one needs before training."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from .check_image import ImageChecker, ImageFinding
from .check_json import Defect, LooseFile, Row, load_loosely
from .coco_panoptic import CocoPanoptic
from .file_source import FileSource
from .images import MAX_PIXELS, SUFFIXES
from .layout import Layout, find_layout, find_splits

SIZE_BINS = (1, 16, 64, 256, 1024, 4096, 16384, 65536)
"""Lower limits of the size bins, pixels."""
PROPOSALS = (10, 20, 50, 100, 150, 200, 256, 400, 600, 800, 1000)


@dataclass(slots=True)
class SplitReport:
    """What was found in one split.

    Attributes:
        split: its name; "" for a lone `panoptic.json`.
        panoptic_json: its file.
        images: how many the file lists.
        annotated: how many of them have an annotation.
        segments: all listed segments; `crowds` of them are crowd.
        crowds: segments marked as crowd.
        classes: a row for every category: id, name, isthing, segments, images, pixels.
        size_bins: (lower limit, things, stuff) segments by area.
        segments_per_image: count of proposals that each annotated image asks for, by image id.
        defects: all of them.
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
    defects: list[Defect] = field(default_factory=list)

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
            "classes": self.classes,
            "size_bins": [dict(zip(("from_area", "things", "stuff"), row)) for row in self.size_bins],
            "most_segments": {"image_id": image, "segments": most},
            "segments_p99": float(np.percentile(counts, 99)),
            "proposals": proposals_for(most),
            "defects": [d.to_json() for d in self.defects],
        }


@dataclass(slots=True)
class Report:
    """What was found in a data set, split by split."""

    splits: list[SplitReport]

    @property
    def defects(self) -> list[Defect]:
        """Those of all splits, in order."""
        return [d for s in self.splits for d in s.defects]

    def to_json(self) -> Row:
        """The whole report as plain JSON values."""
        kinds = Counter(d.kind for d in self.defects)
        return {
            "ok": not self.defects,
            "defects": kinds.total(),
            "defects_by_kind": dict(kinds.most_common()),
            "splits": [s.to_json() for s in self.splits],
        }


def proposals_for(segments: int) -> int:
    """The usual number of proposals that is enough for an image with so many segments (at most 1000)."""
    return next((n for n in PROPOSALS if n >= segments), PROPOSALS[-1])


def check_dataset(
    data: str | os.PathLike[str] | CocoPanoptic | None,
    split: str | None = None,
    *,
    images: str | os.PathLike[str] | None = None,
    panoptic_json: str | os.PathLike[str] | None = None,
    panoptic_pngs: str | os.PathLike[str] | None = None,
    max_segments: int | None = None,
    decode: bool = True,
    max_pixels: int = MAX_PIXELS,
    workers: int = 1,
    progress: Callable[[str, int], Callable[[], Any]] | None = None,
) -> Report:
    """Look for every defect of a data set; a defect never ends the search.

    Args:
        data: its folder, or a data set that is open; None when the paths are given.
        split: the one to check; all there are if left out.
        images, panoptic_json, panoptic_pngs: as in `open_dataset`.
        max_segments: images with more segments than this are reported; None for no limit.
        decode: decode the pictures whole, which finds damaged ones; false reads their headers.
        max_pixels: as in `read_image`.
        workers: processes that open files.
        progress: called with split and number of images; what it returns is called after each image.

    Raises:
        DataError: there is nothing to check: no data set, or a JSON that is none.
    """
    layouts = _layouts(data, split, images, panoptic_json, panoptic_pngs)
    loose = [load_loosely(layout.panoptic_json) for layout in layouts]
    _compare_categories(layouts, loose)
    shared = _folders_of_others(data, layouts)
    reports = []
    for layout, file in zip(layouts, loose):
        checker = ImageChecker(
            FileSource(layout.images), FileSource(layout.panoptic_pngs), str(file.path), decode, max_pixels
        )
        advance = progress(layout.split, len(file.annotations)) if progress else None
        reports.append(_check_split(layout, file, checker, max_segments, workers, advance))
        _report_extra(layouts, loose, len(reports) - 1, checker, shared, reports[-1])
    return Report(reports)


def _layouts(
    data: str | os.PathLike[str] | CocoPanoptic | None,
    split: str | None,
    images: Any,
    panoptic_json: Any,
    pngs: Any,
) -> list[Layout]:
    if isinstance(data, CocoPanoptic):
        return [
            find_layout(None, images=data.images.path, panoptic_json=data.path, panoptic_pngs=data.pngs.path)
        ]
    paths = {"images": images, "panoptic_json": panoptic_json, "panoptic_pngs": pngs}
    if data is None or split is not None or any(paths.values()):
        return [find_layout(data, split, **paths)]
    splits = find_splits(data)
    if not splits:
        find_layout(data)  # raises and says what was looked for
    return [find_layout(data, s or None) if s else find_layout(data, "") for s in splits]


def _compare_categories(layouts: list[Layout], files: list[LooseFile]) -> None:
    """Notes in later splits what contradicts the first."""
    for layout, file in list(zip(layouts, files))[1:]:
        for number in sorted(files[0].categories.keys() | file.categories.keys()):
            first, here = files[0].categories.get(number), file.categories.get(number)
            if first is None or here is None:
                only = layouts[0] if here is None else layout
                text = f'category {number} is only in the split "{only.split}"'
                kind = "categories-differ"
            elif bool(first.get("isthing")) != bool(here.get("isthing")):
                kinds = ["a thing" if c.get("isthing") else "stuff" for c in (here, first)]
                text = f"category {number} is {kinds[0]} here and {kinds[1]} in {layouts[0].split}"
                kind = "isthing-disagrees"
            elif first.get("name") != here.get("name"):
                names = [f'"{c.get("name")}"' for c in (here, first)]
                text = f"category {number} is {names[0]} here and {names[1]} in {layouts[0].split}"
                kind = "categories-differ"
            else:
                continue
            file.defects.append(Defect(kind, str(file.path), text))


def _check_split(
    layout: Layout,
    file: LooseFile,
    checker: ImageChecker,
    max_segments: int | None,
    workers: int,
    advance: Callable[[], Any] | None,
) -> SplitReport:
    report = SplitReport(layout.split, str(file.path), len(file.images), len(file.annotations))
    report.defects += file.defects
    segments, in_images, pixels = Counter[int](), Counter[int](), Counter[int]()
    bins = np.zeros((2, len(SIZE_BINS)), np.int64)
    pairs = [(file.images[a["image_id"]], a) for a in file.annotations]
    with _mapped(checker, pairs, workers) as findings:
        for (image, _), found in zip(pairs, findings):
            report.defects += found.defects
            things = {c for c in {s[0] for s in found.segments} if file.categories.get(c, {}).get("isthing")}
            for category, area, crowd in found.segments:
                segments[category] += 1
                pixels[category] += area
                report.crowds += crowd
                if area:
                    bins[0 if category in things else 1, bisect_right(SIZE_BINS, area) - 1] += 1
            in_images.update({s[0] for s in found.segments})
            stuff = {s[0] for s in found.segments} - things
            asked = sum(s[0] in things and not s[2] for s in found.segments) + len(stuff)
            report.segments_per_image[image["id"]] = asked
            if max_segments is not None and asked > max_segments:
                text = f"image {image['id']} has {asked} segments, more than {max_segments}"
                report.defects.append(
                    Defect("too-many-segments", str(file.path), text, "warning", image["id"])
                )
            if advance:
                advance()
    report.segments = segments.total()
    report.size_bins = [(low, int(t), int(s)) for low, t, s in zip(SIZE_BINS, *bins)]
    report.classes = [
        {
            "id": number,
            "name": str(row.get("name", number)),
            "isthing": int(bool(row.get("isthing"))),
            "segments": segments[number],
            "images": in_images[number],
            "pixels": pixels[number],
        }
        for number, row in file.categories.items()
    ]
    return report


@contextmanager
def _mapped(
    checker: ImageChecker, pairs: list[tuple[Row, Row]], workers: int
) -> Iterator[Iterator[ImageFinding]]:
    """The findings in order, from this process or from several."""
    if workers <= 1 or len(pairs) < 2:
        yield map(checker, pairs)
    else:
        with get_context("spawn").Pool(workers) as pool:
            yield pool.imap(checker, pairs, chunksize=max(1, min(32, len(pairs) // (4 * workers))))


def _folders_of_others(data: Any, layouts: list[Layout]) -> set[Path]:
    """Folders that splits use which are not checked now; what is extra there cannot be told."""
    if data is None or isinstance(data, CocoPanoptic):
        return set()
    found: set[Path] = set()
    for split in find_splits(data):
        try:
            other = find_layout(data, split)
        except DataError:
            continue
        if other.panoptic_json not in {layout.panoptic_json for layout in layouts}:
            found |= {other.images, other.panoptic_pngs}
    return found


def _report_extra(
    layouts: list[Layout],
    files: list[LooseFile],
    index: int,
    checker: ImageChecker,
    shared: set[Path],
    report: SplitReport,
) -> None:
    """Files that no split lists; those of a folder that several splits use are named with its first."""
    for kind, attribute, source in (
        ("picture", "images", checker.images),
        ("png", "panoptic_pngs", checker.pngs),
    ):
        users = [k for k, layout in enumerate(layouts) if getattr(layout, attribute) == source.path]
        if source.path in shared or users[0] != index:
            continue
        listed: set[str] = set()
        for k in users:
            rows = files[k].images.values() if kind == "picture" else files[k].annotations
            listed |= {row["file_name"] for row in rows}
        for name in source.names():
            if name not in listed and Path(name).suffix.lower() in SUFFIXES:
                text = "is not in the JSON; it is not used"
                report.defects.append(Defect(f"extra-{kind}", source.where(name), text, "warning"))
