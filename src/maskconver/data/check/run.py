"""`check_dataset`: every defect of a data set, and the figures one needs before training."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ...core.categories import differences
from ...errors import ConfigError, DataError, MaskconverError
from ...io.images import MAX_PIXELS, SUFFIXES
from ...io.panoptic_json import PanopticFile, read_panoptic_json
from ...io.panoptic_rows import Defect, ImageRow
from ...io.sources import FileSource
from ..coco import NO_ANNOTATION, require_images
from ..conversion.files import Files
from ..conversion.registry import recognise
from ..dataset import PanopticDataset
from ..layout import DataPaths, LabelLayout, Layout, find_layout, find_panoptic, find_splits, has_json
from .annotations import check_annotations
from .image import ImageChecker, Listed, Look
from .labels import check_labels
from .notes import about_split, about_splits
from .report import Place, Report, SplitReport, mapped, proposals_for, tally

__all__ = ["Report", "SplitReport", "check_dataset", "proposals_for"]


def check_dataset(
    data: str | os.PathLike[str] | PanopticDataset | None,
    split: str | None = None,
    paths: DataPaths | None = None,
    *,
    from_format: str | None = None,
    max_segments: int | None = None,
    open_files: bool = True,
    decode: bool = True,
    group: str | None = None,
    max_pixels: int = MAX_PIXELS,
    workers: int = 1,
    progress: Callable[[str, int], Callable[[], Any]] | None = None,
    **files: str | os.PathLike[str] | None,
) -> Report:
    """Look for every defect of a data set; a defect never ends the search.

    Besides defects there are notes: things worth a look that do no harm in training and evaluation.

    Example:
        >>> import maskconver as mc
        >>> mc.data.check_dataset("my_data", "val").defects
        []

    Args:
        data: its folder, or a data set that is open; None when the paths are given. Also the folder, .zip or
            file of any format that `convert` reads.
        split: the one to check; all there are if left out.
        paths: files that lie elsewhere.
        from_format: of annotations that are to be converted, as for `convert`; recognised if left out.
        max_segments: images with more segments than this are reported; None for no limit.
        open_files: false checks only what a panoptic JSON states and opens neither images nor PNGs.
        decode: decode the images whole, which finds damaged ones and near-duplicates across splits; false
            reads their headers.
        group: regular expression for the file names of images: those with the same text in its first group
            (or the whole match) belong together and must not be in two splits.
        max_pixels: as in `read_image`.
        workers: processes that open files.
        progress: called with split and number of images; what it returns is called after each image.
        files: fields of `DataPaths`, by name.

    Raises:
        DataError: there is nothing to check: no data set, or a JSON that is none.
        ConfigError: an option that is not possible.
    """
    chosen = DataPaths.of(paths, **files)
    if from_format is not None or _is_foreign(data, chosen):
        if data is None or isinstance(data, PanopticDataset) or split or chosen != DataPaths():
            raise ConfigError("`from_format` takes the folder or file of annotations alone, without a split")
        look = Look(open_files, decode, True, max_pixels)
        reports = check_annotations(data, from_format, look, max_segments=max_segments, progress=progress)
    else:
        reports = _panoptic_and_labels(
            data, split, chosen, max_segments, Look(open_files, decode, True, max_pixels), workers, progress
        )
    for report in reports:
        about_split(report)
    about_splits(reports, group)
    return Report(reports)


def _is_foreign(data: Any, paths: DataPaths) -> bool:
    """Whether these are annotations that are to be converted, not a data set as it is trained on."""
    if data is None or isinstance(data, PanopticDataset) or paths != DataPaths():
        return False
    path = Path(data)
    if not path.is_dir():
        return path.is_file()
    if find_splits(path):
        return False
    try:
        recognise(Files(path))
    except MaskconverError as error:
        return error.what.startswith("several formats")  # which is then said
    return True


def _panoptic_and_labels(
    data: str | os.PathLike[str] | PanopticDataset | None,
    split: str | None,
    paths: DataPaths,
    max_segments: int | None,
    look: Look,
    workers: int,
    progress: Callable[[str, int], Callable[[], Any]] | None,
) -> list[SplitReport]:
    every = _layouts(data, split, paths)
    look = replace(look, fingerprints=len(every) > 1)
    layouts = [layout for layout in every if isinstance(layout, Layout)]
    folders = [layout for layout in every if isinstance(layout, LabelLayout)]
    found = [_read(layout) for layout in layouts]
    _compare_categories(layouts, found)
    shared = _folders_of_others(data, layouts) if look.open_files else set()
    reports = []
    for layout, (file, defects) in zip(layouts, found):
        images, pngs = FileSource(layout.images), FileSource(layout.panoptic_pngs)
        things = frozenset(c.id for c in file.categories if c.is_thing)
        checker = ImageChecker(images, pngs, file.path, things, look)
        advance = progress(layout.split, len(file)) if progress else None
        reports.append(_check_split(layout, file, defects, checker, max_segments, workers, advance))
        if look.open_files:
            every_file = [file for file, _ in found]
            _report_extra(layouts, every_file, len(reports) - 1, checker, shared, reports[-1])
    return reports + [check_labels(folder, look, workers=workers, progress=progress) for folder in folders]


def _read(layout: Layout) -> tuple[PanopticFile, list[Defect]]:
    """The JSON of a split and what is wrong in it."""
    defects: list[Defect] = []
    file = read_panoptic_json(layout.panoptic_json, defects=defects)
    if not file.images and len(file):
        require_images(file)
    for image in file.images:
        if not image.file_name:
            text = f"image {image.id} has no file_name"
            defects.append(Defect("bad-image-row", file.path, text, image_id=image.id))
    if not len(file) and not any(d.image_id is not None for d in defects):
        defects.append(Defect("no-annotation", file.path, NO_ANNOTATION))
    return file, defects


def _layouts(
    data: str | os.PathLike[str] | PanopticDataset | None, split: str | None, paths: DataPaths
) -> list[Layout | LabelLayout]:
    if isinstance(data, PanopticDataset):
        return [find_layout(None, paths=data.paths)]
    if data is None or split is not None or paths != DataPaths():
        return [find_layout(data, split, paths)]
    splits = find_splits(data)
    if not splits:
        find_layout(data)  # raises and says what was looked for
    found = [find_layout(data, s or None) if s else find_layout(data, "") for s in splits]
    # Where a label folder has panoptic files beside it, both are checked.
    both = [s for s, layout in zip(splits, found) if isinstance(layout, LabelLayout) and has_json(data, s)]
    return [*(find_panoptic(data, s) for s in both), *found]


def _compare_categories(layouts: list[Layout], files: list[tuple[PanopticFile, list[Defect]]]) -> None:
    """Notes in later splits what contradicts the first, as training would."""
    for layout, (file, defects) in list(zip(layouts, files))[1:]:
        names = layouts[0].split or "the first split", layout.split or "this split"
        for kind, text in differences(files[0][0].categories, file.categories, *names):
            defects.append(Defect(kind, file.path, text))


def _check_split(
    layout: Layout,
    file: PanopticFile,
    defects: list[Defect],
    checker: ImageChecker,
    max_segments: int | None,
    workers: int,
    advance: Callable[[], Any] | None,
) -> SplitReport:
    report = SplitReport(layout.split, file.path, len({image.id for image in file.images}), len(file))
    report.defects += defects
    report.images_path = str(checker.images.path)
    images = {image.id: image for image in reversed(file.images)}  # the first of an id
    with mapped(checker, _listed(file, images), workers, len(file)) as findings:
        tally(
            report, file.categories, zip(file.image_ids, findings), max_segments=max_segments, advance=advance
        )

    def locate(image_id: Any) -> Place | None:
        at = file.index_of.get(image_id)
        png = (None, "") if at is None else (checker.pngs, file.png_names[at])
        return Place(checker.images, images[image_id].file_name, *png) if image_id in images else None

    report.locate = locate
    return report


def _listed(file: PanopticFile, images: dict[int | str, ImageRow]) -> Iterator[Listed]:
    category_ids = np.append(file.categories.ids, -1)
    for i, image_id in enumerate(file.image_ids):
        table = file.table(i)
        boxes = file.boxes[int(file.offsets[i]) : int(file.offsets[i + 1])]
        columns = table.ids, category_ids[table.labels], table.crowd, table.areas, boxes
        yield Listed(images[image_id], file.png_names[i], *columns)


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
    files: list[PanopticFile],
    index: int,
    checker: ImageChecker,
    shared: set[Path],
    report: SplitReport,
) -> None:
    """Files that no split lists; those of a folder that several splits use are named with its first."""
    for kind, attribute, source in (
        ("image", "images", checker.images),
        ("png", "panoptic_pngs", checker.pngs),
    ):
        users = [k for k, layout in enumerate(layouts) if getattr(layout, attribute) == source.path]
        if source.path in shared or users[0] != index:
            continue
        listed: set[str | None] = set()
        for k in users:
            names = [i.file_name for i in files[k].images] if kind == "image" else files[k].png_names
            listed |= {source.find(name) for name in names}
        for name in source.names():
            if name not in listed and Path(name).suffix.lower() in SUFFIXES:
                text = "is not in the JSON; it is not used"
                report.defects.append(Defect(f"extra-{kind}", source.where(name), text, "warning"))
