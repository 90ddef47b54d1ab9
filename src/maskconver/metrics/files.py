"""Panoptic quality of one COCO panoptic file against another, in one or several processes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.categories import Categories
from ..core.processes import process_pool
from ..data.layout import require_pngs
from ..errors import DataError
from ..io.panoptic_json import PanopticFile, read_panoptic_json, read_panoptic_png
from ..io.sources import FileSource
from .overlap import Overlap
from .panoptic_quality import PanopticQuality, PanopticQualityResult

PathLike = str | os.PathLike[str]
Progress = Callable[[str, int], Callable[[], None]]
_CHUNK = 32  # images a process takes at a time


@dataclass(frozen=True, slots=True)
class FilesResult:
    """What `panoptic_quality_files` gives.

    Attributes:
        quality: the figures.
        categories: the label set, that of the ground truth.
        images: how many images were compared.
        unannotated: how many images of the ground truth have no annotation and were left out.
        seconds: wall time without reading the JSON files.
        decoding: the share of that work spent on reading and decoding PNGs, 0…1.
        warnings: what is odd in the ground truth, one line a kind with the number and the first place.
    """

    quality: PanopticQualityResult
    categories: Categories
    images: int
    unannotated: int
    seconds: float
    decoding: float
    warnings: list[str] = field(default_factory=list)


def panoptic_quality_files(
    gt_json: PathLike,
    pred_json: PathLike,
    gt_folder: PathLike | None = None,
    *,
    pred_folder: PathLike | None = None,
    processes: int = 1,
    details: bool = False,
    progress: Progress | None = None,
) -> FilesResult:
    """Evaluate predictions as the COCO panoptic evaluation does, with the same figures.

    Images are paired by `image_id`; predictions for images without ground truth are not read. Categories and
    areas are those of the ground truth's JSON; areas of predictions are counted in the PNGs.

    Args:
        gt_json, pred_json: COCO panoptic JSON files.
        gt_folder, pred_folder: folder or .zip of the PNGs; by default the one beside the JSON with its name
            (`gt.json`, `gt/`), or where a data set has it (`panoptic_val.json`, `panoptic/val/`).
        processes: how many share the images. A script that asks for more than one needs the usual
            `if __name__ == "__main__":`.
        details: also keep the matches and mistakes of each image.
        progress: called with a title and the number of images; what it returns is called after each image.

    Raises:
        DataError: a file is no sound COCO panoptic file, an image has no prediction, or a PNG does not fit
            its JSON.
        OSError: a file cannot be read.
    """
    gt = read_panoptic_json(gt_json)
    pred = read_panoptic_json(pred_json, categories=gt.categories)
    if not len(gt):
        raise DataError(f"{gt.path}: no image is annotated, so there is nothing to compare with")
    missing = [image_id for image_id in gt.image_ids if image_id not in pred.index_of]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        fix = "an image without segments is an annotation with an empty segments_info"
        wanted = str(missing[0]).lstrip("0")
        if (other := next((i for i in pred.image_ids if str(i).lstrip("0") == wanted), None)) is not None:
            fix = f"its id is {missing[0]!r} in the ground truth and {other!r} here; write both alike"
        raise DataError(f"no prediction for image {missing[0]}{more}", where=pred.path, fix=fix)
    job = _Job(
        gt,
        pred,
        _png_source(gt_json, gt_folder, "gt_folder"),
        _png_source(pred_json, pred_folder, "pred_folder"),
        details,
        {image.id: (image.height, image.width) for image in gt.images},
    )
    start = time.perf_counter()
    total = _Part.empty(len(gt.categories))
    with _parts(job, min(processes, -(-len(gt) // _CHUNK))) as parts:
        advance = progress("evaluating", len(gt)) if progress else lambda: None
        for part in parts:
            total.add(part)
            for _ in range(part.images):
                advance()
    metric = PanopticQuality(gt.categories, details=details)
    metric.merge_state(total.state)
    if metric.details is not None:
        order = {image_id: i for i, image_id in enumerate(gt.image_ids)}
        metric.details += sorted(total.details, key=lambda d: order[d["image_id"]])
    return FilesResult(
        metric.compute(),
        gt.categories,
        total.images,
        max(0, len(gt.images) - len(gt)),
        time.perf_counter() - start,
        total.decoding / max(total.seconds, 1e-9),
        renamed_categories(pred)
        + [f"{gt.path}: {n} × {kind}, first {where}" for kind, (n, where) in total.odd.items()],
    )


@dataclass(frozen=True)
class _Job:
    """What every process has to know."""

    gt: PanopticFile
    pred: PanopticFile
    gt_pngs: FileSource
    pred_pngs: FileSource
    details: bool
    sizes: dict[int | str, tuple[int, int]]  # (height, width) as the ground truth states it

    def evaluate(self, images: range) -> _Part:
        metric = PanopticQuality(self.gt.categories, details=self.details)
        part = _Part.empty(len(self.gt.categories))
        start = time.perf_counter()
        for i in images:
            image_id = self.gt.image_ids[i]
            j = self.pred.index_of[image_id]
            begin = time.perf_counter()
            pred_ids = _read(self.pred_pngs, self.pred.png_names[j])
            gt_ids = _read(self.gt_pngs, self.gt.png_names[i])
            part.decoding += time.perf_counter() - begin
            try:
                overlap = Overlap.of(
                    pred_ids,
                    self.pred.table(j),
                    gt_ids,
                    self.gt.table(i),
                    categories=self.gt.categories,
                    image=image_id,
                )
                metric.add(overlap)
            except DataError as error:
                names = self.pred_pngs.where(self.pred.png_names[j]), self.gt_pngs.where(self.gt.png_names[i])
                raise DataError(f"{names[0]} against {names[1]}: {error}") from None
            part.note(overlap, self.sizes.get(image_id, (0, 0)), gt_ids.shape)
        part.seconds, part.images = time.perf_counter() - start, len(images)
        part.state, part.details = metric.state, metric.details or []
        return part


@dataclass
class _Part:
    """The sums over some of the images."""

    state: NDArray[np.float64]
    details: list[dict[str, Any]]
    odd: dict[str, tuple[int, str]]
    images: int = 0
    seconds: float = 0.0
    decoding: float = 0.0

    @classmethod
    def empty(cls, classes: int) -> _Part:
        return cls(np.zeros((classes, 4)), [], {})

    def add(self, other: _Part) -> None:
        self.state += other.state
        self.details += other.details
        self.images += other.images
        self.seconds += other.seconds
        self.decoding += other.decoding
        for kind, (count, where) in other.odd.items():
            self._count(kind, count, where)

    def note(self, overlap: Overlap, stated: tuple[int, int], found: tuple[int, ...]) -> None:
        """Count what the evaluation accepts in the ground truth, but what a data set should not have."""
        gt, where = overlap.gt, f"image {overlap.image}"
        pixels = overlap.joint.sum(axis=1)
        empty, other = pixels[:-2] == 0, (gt.areas > 0) & (gt.areas != pixels[:-2])
        if empty.any():
            place = f"{where} segment {gt.ids[empty][0]}"
            self._count("segment listed without any pixel (counts as missed)", int(empty.sum()), place)
        if (other & ~empty).any():
            wrong = gt.ids[other & ~empty]
            place = f"{where} segment {wrong[0]}"
            self._count("stated area is not the number of pixels (it is used)", len(wrong), place)
        if pixels[-1]:
            self._count("PNG with ids that the JSON does not list", 1, where)
        if stated != found and min(stated) > 0:
            self._count("size in the JSON is not that of the PNG (which counts)", 1, where)

    def _count(self, kind: str, count: int, where: str) -> None:
        before, first = self.odd.get(kind, (0, where))
        self.odd[kind] = before + count, first


def _read(source: FileSource, name: str) -> NDArray[np.int32]:
    return read_panoptic_png(source.read(name), source.where(name))


@contextmanager
def _parts(job: _Job, processes: int) -> Iterator[Iterator[_Part]]:
    """The parts as they are done, in any order; the processes are started before the block is entered."""
    chunks = [range(i, min(i + _CHUNK, len(job.gt))) for i in range(0, len(job.gt), _CHUNK)]
    if processes <= 1:
        yield (job.evaluate(chunk) for chunk in chunks)
        return
    with process_pool(processes, _start, (job,)) as pool:
        futures = [pool.submit(_evaluate, chunk) for chunk in chunks]
        yield (future.result() for future in as_completed(futures))


_job: _Job | None = None  # of this worker process; set once, so that it does not travel with every chunk


def _start(job: _Job) -> None:
    global _job
    _job = job


def _evaluate(images: range) -> _Part:
    assert _job is not None
    return _job.evaluate(images)


def _png_source(json_path: PathLike, folder: PathLike | None, setting: str) -> FileSource:
    return FileSource(folder or require_pngs(Path(json_path), setting))


def renamed_categories(pred: PanopticFile) -> list[str]:
    """A line if an id means another category in the prediction than in the ground truth."""
    names = {c.id: c.name for c in pred.categories}
    other = [c for c in pred.own_categories if names.get(c.id, c.name) != c.name]
    if not other:
        return []
    c = other[0]
    return [
        f'{pred.path}: {len(other)} × category named differently, first {c.id}: "{c.name}" here, '
        f'"{names[c.id]}" in the ground truth, which counts'
    ]
