"""`analyze`: a model, or files of predictions, against a data set."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..core.segmentation import Segmentation
from ..data.dataset import DataWarning, PanopticDataset
from ..data.layout import require_pngs
from ..errors import ConfigError, DataError, MaskconverError
from ..inference.evaluation import Figures, failure, require_same_categories
from ..inference.predictor import Predictor
from ..inference.runtime import has_postprocessing
from ..io.panoptic_json import read_panoptic_json, read_panoptic_png
from ..io.sources import FileSource
from ..metrics import MaskAveragePrecision
from ..metrics.files import renamed_categories
from ..metrics.overlap import Overlap
from .mistakes import Mistakes, find_mistakes
from .summary import Analysis, quality_of
from .variants import FACTORS, Variants

KEPT_BYTES = 256 << 20
SWEEPS: dict[str, tuple[float, ...]] = {
    "score_threshold": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7),
    "overlap_threshold": (0.3, 0.5, 0.7, 0.8),
    "min_area": (0.0, 0.0001, 0.0005, 0.002),
}
"""Thresholds that are varied, one at a time, and the values that are tried; see also `FACTORS`."""


def analyze(
    model: Predictor | str | os.PathLike[str],
    dataset: PanopticDataset,
    *,
    by: str | None = None,
    sweeps: tuple[str, ...] = ("score_threshold", "overlap_threshold"),
    mask_ap: bool = False,
    keep: int = 0,
    on_image: Callable[[], None] = lambda: None,
) -> Analysis:
    """Find every mistake on a data set, and why it counts.

    Args:
        model: a predictor, or the COCO panoptic JSON of predictions with its folder of PNGs beside it.
        dataset: with ground truth, of the model's categories.
        by: a key of `images[]` to group by.
        sweeps: what is varied: thresholds of `SWEEPS`, for which the network runs once an image, or
            `proposals` and `size`, for which it runs once a value. Images that are segmented in tiles are
            left out of the sweeps.
        mask_ap: also split what COCO mask AP of the things lacks (extra `ap`).
        keep: how many of the worst results are kept, where memory allows, for `results`.
        on_image: called after each image.

    Raises:
        ConfigError: categories differ, no image has the key `by`, or there is no such setting to vary.
        DataError: the data set is empty, or the predictions do not belong to it.

    Warns:
        DataWarning: prediction files whose category ids mean something else than in the data.
    """
    if not len(dataset):
        raise DataError(f"{dataset.path}: no annotated image, nothing to analyze")
    if by and not any(by in dataset.info(i) for i in range(len(dataset))):
        raise ConfigError(f'no image has the key "{by}"; images have {", ".join(sorted(dataset.info(0)))}')
    for name in sweeps:
        if name not in SWEEPS and name not in FACTORS:
            raise ConfigError(f"cannot vary {name}; there are {', '.join([*SWEEPS, *FACTORS])}")
    source = _source(model, dataset, sweeps)
    categories = dataset.categories
    parts: list[Mistakes] = []
    kept = _Worst(keep)
    answer = Analysis(categories, Mistakes.concatenate([]), [])
    if isinstance(source, _Files):
        if mask_ap:
            raise ConfigError("`ap` needs scores, which prediction files do not have; give the model")
        for text in renamed_categories(source.file):
            warnings.warn(text, DataWarning, stacklevel=2)
    most = max(100, int(dataset.segment_counts.max()))
    detections = MaskAveragePrecision(categories, most) if mask_ap else None
    for index in range(len(dataset)):
        try:
            ids, segments = dataset.ids(index), dataset.segments(index)
            result = source.result(index, ids, segments)
            overlap = Overlap.of(
                result.ids,
                result.segments,
                ids,
                segments,
                categories=categories,
                image=dataset.image_ids[index],
            )
            scores = np.array([s.score for s in result])
            number = len(answer.images)
            part = find_mistakes(overlap, result.ids, ids, categories.is_thing, scores=scores, image=number)
            parts.append(part)
            answer.quality.append(quality_of(part, categories.is_thing))
            kept.add(answer.quality[-1], index, result)
            if detections is not None:
                detections.update(result.ids, result.segments, scores, ids, segments)
            answer.images.append(dataset.file_names[index])
            answer.indices.append(index)
            if by:
                answer.groups.append(str(dataset.info(index).get(by)))
        except (MaskconverError, OSError) as error:
            answer.failures.append(failure(dataset.image_path(index), error))
        on_image()
    answer.mistakes = Mistakes.concatenate(parts)
    answer.kept = kept.results
    answer.sweeps, answer.settings = source.sweeps()
    answer.seconds, answer.unswept = source.seconds(), source.unswept
    answer.mask_ap = None if detections is None else detections.errors()
    return answer


def results(
    model: Predictor | str | os.PathLike[str],
    dataset: PanopticDataset,
    indices: Iterable[int],
    *,
    kept: Mapping[int, Segmentation] | None = None,
) -> Iterator[tuple[int, Segmentation]]:
    """(index, result at the size of its ground truth) of some images of a data set that was analyzed.

    Args:
        model, dataset: as analyzed.
        indices: of the images.
        kept: results that are there already, by index.
    """
    source = _source(model, dataset, ())
    for index in indices:
        found = (kept or {}).get(index)
        if found is None:
            found = source.result(index, dataset.ids(index), dataset.segments(index))
        yield index, found


class _Worst:
    """The worst results so far, no more than `KEPT_BYTES`."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.results: dict[int, Segmentation] = {}
        self._quality: dict[int, float] = {}

    def add(self, quality: float, index: int, result: Segmentation) -> None:
        if math.isnan(quality) or not self.count:
            return
        self.results[index] = replace(result, image=None, semantic=None, instances=None)
        self._quality[index] = quality
        while len(self.results) > self.count or sum(r.ids.nbytes for r in self.results.values()) > KEPT_BYTES:
            best = max(self._quality, key=lambda i: (self._quality[i], i))
            del self.results[best], self._quality[best]


def _source(
    model: Predictor | str | os.PathLike[str], dataset: PanopticDataset, sweeps: tuple[str, ...]
) -> _Model | _Files:
    if not isinstance(model, Predictor):
        return _Files(Path(model), dataset)
    require_same_categories(model.categories, dataset.categories)
    dataset.use_categories(model.categories)
    return _Model(model, dataset, sweeps)


class _Model:
    """Runs the network once an image; the thresholds that are varied are counted along."""

    def __init__(self, predictor: Predictor, dataset: PanopticDataset, names: tuple[str, ...]) -> None:
        self.predictor, self.dataset, self.unswept = predictor.for_dataset(), dataset, 0
        dataset.read_for(predictor.runtime.input)  # another model may have been at work before
        if has_postprocessing(predictor.runtime):
            names = ()
        now = predictor.postprocess
        self.settings = {name: float(getattr(now, name)) for name in names if name in SWEEPS}
        self.variants = [
            Variants(name, self.predictor, dataset.categories) for name in names if name in FACTORS
        ]
        self.figures: dict[str, dict[float, Figures]] = {
            name: {value: Figures(dataset.categories) for value in sorted({*SWEEPS[name], used})}
            for name, used in self.settings.items()
        }

    def result(self, index: int, ids: Any, segments: Any) -> Segmentation:
        image = self.dataset.image(index)
        self.dataset.require_fit(index, image.shape, ids.shape)
        tiles = self.predictor.tiles
        tiled = bool(tiles is not None and tiles.over(image.shape[:2]))
        for variants in self.variants if not tiled else ():
            variants.add(image, ids, segments)
        if not self.figures or tiled:
            whole = self.predictor(image).resized(ids.shape)
            self.unswept += tiled and bool(self.figures or self.variants)
            return whole
        proposals = self.predictor.proposals(image)
        now = self.predictor.postprocess
        answer = self.predictor.segmentations(proposals, now)[0].resized(ids.shape)
        for name, tried in self.figures.items():
            for value, figures in tried.items():
                config = replace(now, **{name: value})  # type: ignore[arg-type]
                if name == "score_threshold":
                    config = replace(config, stuff_threshold=None)
                one = answer
                if value != self.settings[name]:
                    one = self.predictor.segmentations(proposals, config)[0]
                figures.add_image(one, ids, segments, image_id=index)
        return answer

    def sweeps(self) -> tuple[dict[str, list[tuple[float, float]]], dict[str, float]]:
        curves = {
            name: [(value, f.headline[1]) for value, f in tried.items()]
            for name, tried in self.figures.items()
            if any(f.images for f in tried.values())
        }
        settings = dict(self.settings)
        for variants in self._counted():
            settings[variants.name] = variants.own
            curves[variants.name] = [(v.value, v.figures.headline[1]) for v in variants.all]
        return curves, settings

    def seconds(self) -> dict[str, dict[float, float]]:
        return {
            variants.name: {v.value: v.seconds / max(v.figures.images, 1) for v in variants.all}
            for variants in self._counted()
        }

    def _counted(self) -> list[Variants]:
        """Those that at least one image was segmented with."""
        return [variants for variants in self.variants if any(v.figures.images for v in variants.all)]


class _Files:
    """Predictions that were written before."""

    unswept = 0

    def __init__(self, path: Path, dataset: PanopticDataset) -> None:
        self.file = read_panoptic_json(path, categories=dataset.categories)
        self.pngs = FileSource(require_pngs(path, "the PNGs of the predictions"))
        self.dataset = dataset
        if not any(number in self.file.index_of for number in dataset.image_ids):
            raise DataError(f"{path}: none of its images is one of {dataset.path}")

    def result(self, index: int, ids: Any, segments: Any) -> Segmentation:
        number = self.dataset.image_ids[index]
        if number not in self.file.index_of:
            raise DataError(f"{self.file.path}: no prediction for image {number}")
        row = self.file.index_of[number]
        name = self.file.png_names[row]
        found = read_panoptic_png(self.pngs.read(name), self.pngs.where(name))
        table = self.file.table(row)
        return Segmentation.from_ids(
            found,
            self.dataset.categories,
            labels=table.labels,
            segment_ids=table.ids,
            scores=np.full(len(table), np.nan),
        )

    def sweeps(self) -> tuple[dict[str, list[tuple[float, float]]], dict[str, float]]:
        return {}, {}

    def seconds(self) -> dict[str, dict[float, float]]:
        return {}
