"""`check_dataset`: every defect of a data set, and the figures one needs before training."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...errors import DataError
from ...io.images import MAX_PIXELS, SUFFIXES
from ...io.sources import FileSource
from ..coco import CocoPanoptic
from ..dataset import PanopticDataset
from ..label_folder import LabelFolder
from ..layout import LabelLayout, Layout, find_layout, find_panoptic, find_splits, has_json
from .image import ImageChecker
from .json import Defect, LooseFile, load_loosely
from .labels import check_labels
from .report import Report, SplitReport, mapped, proposals_for, tally

__all__ = ["Report", "SplitReport", "check_dataset", "proposals_for"]


def check_dataset(
    data: str | os.PathLike[str] | PanopticDataset | None,
    split: str | None = None,
    *,
    images: str | os.PathLike[str] | None = None,
    panoptic_json: str | os.PathLike[str] | None = None,
    panoptic_pngs: str | os.PathLike[str] | None = None,
    labels: str | os.PathLike[str] | None = None,
    classes: str | os.PathLike[str] | None = None,
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
        images, panoptic_json, panoptic_pngs, labels, classes: as in `open_dataset`.
        max_segments: images with more segments than this are reported; None for no limit.
        decode: decode the pictures whole, which finds damaged ones; false reads their headers.
        max_pixels: as in `read_image`.
        workers: processes that open files.
        progress: called with split and number of images; what it returns is called after each image.

    Raises:
        DataError: there is nothing to check: no data set, or a JSON that is none.
    """
    paths = {
        "images": images,
        "panoptic_json": panoptic_json,
        "panoptic_pngs": panoptic_pngs,
        "labels": labels,
        "classes": classes,
    }
    every = _layouts(data, split, paths)
    layouts = [layout for layout in every if isinstance(layout, Layout)]
    folders = [layout for layout in every if isinstance(layout, LabelLayout)]
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
    for folder in folders:
        reports.append(check_labels(folder, decode, max_pixels, workers, progress))
    return Report(reports)


def _layouts(
    data: str | os.PathLike[str] | PanopticDataset | None, split: str | None, paths: dict[str, Any]
) -> list[Layout | LabelLayout]:
    if isinstance(data, CocoPanoptic):
        return [
            find_layout(None, images=data.images.path, panoptic_json=data.path, panoptic_pngs=data.pngs.path)
        ]
    if isinstance(data, LabelFolder):
        return [find_layout(None, images=data.images.path, labels=data.labels.path, classes=data.path)]
    assert not isinstance(data, PanopticDataset)
    if data is None or split is not None or any(paths.values()):
        return [find_layout(data, split, **paths)]
    splits = find_splits(data)
    if not splits:
        find_layout(data)  # raises and says what was looked for
    found = [find_layout(data, s or None) if s else find_layout(data, "") for s in splits]
    # Where a label folder has panoptic files beside it, both are checked.
    both = [s for s, layout in zip(splits, found) if isinstance(layout, LabelLayout) and has_json(data, s)]
    return [*(find_panoptic(data, s) for s in both), *found]


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
    pairs = [(file.images[a["image_id"]], a) for a in file.annotations]
    with mapped(checker, pairs, workers) as findings:
        found = ((image["id"], finding) for (image, _), finding in zip(pairs, findings))
        tally(report, file.categories, found, max_segments, advance)
    return report


def _folders_of_others(data: Any, layouts: list[Layout]) -> set[Path]:
    """Folders that splits use which are not checked now; what is extra there cannot be told."""
    if data is None or isinstance(data, PanopticDataset):
        return set()
    found: set[Path] = set()
    for split in find_splits(data):
        try:
            other = find_panoptic(data, split)
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
