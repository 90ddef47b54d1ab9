"""The data check of annotations in any format that can be converted."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ...core.segments import lookup, measure
from ...errors import ConfigError, MaskconverError, one_line
from ...io.panoptic_rows import Defect
from ...io.sources import FileSource
from ..conversion.annotation import AnnotatedImage, Faults, Options, Reader
from ..conversion.archive import unpack
from ..conversion.classes import ClassPlan, plan_classes
from ..conversion.files import Files
from ..conversion.rasterize import rasterize
from ..conversion.registry import reader_of, recognise
from ..conversion.splits import split_name
from .image import ImageFinding, Look, check_image, note, odd_segment
from .report import Place, SplitReport, Tally


def check_annotations(
    source: str | os.PathLike[str],
    from_format: str | None,
    look: Look,
    *,
    max_segments: int | None = None,
    progress: Callable[[str, int], Callable[[], Any]] | None = None,
) -> list[SplitReport]:
    """Every defect of annotations that `convert` reads, as it would meet them; nothing is written.

    Args:
        source: folder or file.
        from_format: the format; recognised if left out.
        look: how closely to look at the images.
        max_segments, progress: as for `check_dataset`.

    Raises:
        DataError, ConfigError: as `convert`.
    """
    if not look.open_files:
        raise ConfigError("`open_files=False` is for panoptic JSON files; annotations are read whole here")
    archived = Faults()
    files = _files(Path(source), archived)
    options = Options()
    kind, why = recognise(files) if from_format is None else (reader_of(from_format), "as you said")
    reader = kind(files, options)
    plan = plan_classes(reader.classes, options)
    advance = progress(reader.title, reader.count) if progress else None
    sums: dict[str, Tally] = {}
    places: dict[tuple[str, str], Path] = {}
    for image in reader.images():
        split = split_name(image.split)
        if split not in sums:
            report = SplitReport(split, f"{source} ({reader.title}: {why})", images_path=str(source))
            report.locate = _locator(places, split, files)
            sums[split] = Tally(report, plan.categories, max_segments)
        if image.path is not None:
            places[split, image.name] = image.path
        sums[split].add(image.name, _check(image, reader, plan, look))
        if advance:
            advance()
    for each in sums.values():
        each.finish()
        own = {c.name for c in reader.classes}
        each.report.classes = [row for row in each.report.classes if row["name"] in own]
        each.report.images = each.report.annotated = len(each.report.looks)
    reports = {split: each.report for split, each in sums.items()}
    if not reports:
        reports[""] = SplitReport("", f"{source} ({reader.title}: {why})")
        reports[""].defects.append(Defect("no-annotation", str(source), "no image can be read"))
    first = next(iter(reports.values()))
    first.defects += _defects(archived) + _defects(reader.faults)
    for text in [*reader.decisions, *plan.decisions]:
        first.notes.append(note("decision", str(source), text))
    for name, count in reader.faults.notes.items():
        first.notes.append(note(name, str(source), f"{count} × {name.replace('-', ' ')}"))
    return [reports[name] for name in sorted(reports, key=lambda s: (s != "train", s != "val", s))]


def _files(source: Path, faults: Faults) -> Files:
    """The files of a source; a .zip is unpacked to a temporary folder that vanishes with them."""
    if not (source.is_file() and zipfile.is_zipfile(source)):
        return Files(source)
    folder = tempfile.mkdtemp(prefix="maskconver-")
    try:
        files = Files(unpack(source, Path(folder) / "source", faults), shown=str(source))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    weakref.finalize(files, shutil.rmtree, folder, ignore_errors=True)
    return files


def _locator(places: dict[tuple[str, str], Path], split: str, files: Files) -> Callable[[Any], Place | None]:
    """Finds images later, as long as their `files` are there, which it keeps."""

    def locate(name: Any) -> Place | None:
        path = places.get((split, name)) if files else None
        return None if path is None else Place(FileSource(path.parent), path.name)

    return locate


def _defects(faults: Faults) -> list[Defect]:
    found = [Defect(fault.kind, fault.where, fault.text) for fault in faults.listed]
    if (more := faults.errors.total() - len(found)) > 0:
        found.append(Defect("more", "", f"{more} more errors are only counted: {dict(faults.errors)}"))
    return found


def _check(image: AnnotatedImage, reader: Reader, plan: ClassPlan, look: Look) -> ImageFinding:
    found = ImageFinding(name=image.name)
    size = None
    if image.path is not None:
        images = FileSource(image.path.parent)
        size = check_image(images, image.path.name, image.name, found=found, look=look)
    stated = (image.height, image.width) if image.height and image.width else None
    stated = (image.ids.shape[0], image.ids.shape[1]) if image.ids is not None else stated
    if size is not None and stated is not None and tuple(size) != stated:
        text = f"annotated at {stated[1]}×{stated[0]}, the image is {size[1]}×{size[0]}"
        found.defects.append(Defect("size-mismatch", image.where, text, "error", image.name))
    canvas = stated or size
    if canvas is None:
        return found
    try:
        ids, segments = image.ids, image.segments
        if ids is None:
            drawn = rasterize(
                [s for s in image.shapes if s.name in plan.ids],
                (canvas[0], canvas[1]),
                reader.faults,
                image.where,
                stuff=plan.stuff,
                edges=reader.edges,
            )
            ids, segments = drawn.ids, drawn.segments
    except MaskconverError as error:
        found.defects.append(Defect(error.kind or "bad-shape", image.where, one_line(error.text), "error"))
        return found
    for name in sorted({s.name for s in (image.segments or image.shapes)} - plan.ids.keys()):
        text = f'there is no class "{name}"'
        found.defects.append(Defect("unknown-class", image.where, text, "error", image.name))
    kept = [s for s in segments if s.name in plan.ids]
    numbers = np.array([s.id for s in kept], np.int64)
    ids = lookup(ids, numbers, numbers, 0) if len(numbers) else np.zeros_like(ids)
    areas, boxes = measure(ids, numbers)
    found.pixels, found.void = ids.size, int(ids.size - np.count_nonzero(ids))
    for segment, area, box in zip(kept, areas.tolist(), boxes.tolist()):
        found.segments.append((plan.ids[segment.name], area, segment.crowd))
        odd = odd_segment(area, box, ids.shape)
        if odd and segment.name not in plan.stuff and not segment.crowd:
            text = f"{segment.name} at x {box[0]}, y {box[1]} {odd[1]}"
            found.notes.append(note(odd[0], image.where, text, image_id=image.name))
    if not kept:
        found.notes.append(note("nothing-annotated", image.where, "has no annotation", image_id=image.name))
    return found
