"""A model on a data set: PQ, mIoU and AP at the images' own size, whole and by group."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from copy import copy
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.categories import VOID_LABEL, Categories, differences
from ..core.config import PostprocessConfig
from ..core.drawing import side_by_side
from ..core.proposals import Proposals
from ..core.segmentation import Segmentation
from ..core.segments import SegmentTable, lookup
from ..data.dataset import DataWarning, PanopticDataset
from ..errors import ConfigError, DataError, MaskconverError, one_line
from ..merge import RULES, Source
from ..merge.instances import TOP
from ..metrics import MaskAveragePrecision, MeanIoU, PanopticQuality, pooled_average_precision
from ..metrics.overlap import Overlap
from ..metrics.panoptic_quality import match_segments
from .predictor import Predictor
from .runtime import Replay, above

# What `tune` tries: scores, then shares of its own mask a proposal must win.
TRIED_THINGS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7), (0.3, 0.5, 0.6, 0.7, 0.8)
TRIED_SEMANTIC = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3), (0.0, 0.3, 0.5)


@dataclass
class Figures:
    """Metrics of a set of images, each streaming; see `maskconver.metrics`."""

    categories: Categories
    images: int = 0
    mask_ap: MaskAveragePrecision | None = None
    pq: PanopticQuality = field(init=False)
    miou: MeanIoU = field(init=False)

    def __post_init__(self) -> None:
        self.pq, self.miou = PanopticQuality(self.categories), MeanIoU(self.categories)

    def add(
        self, overlap: Overlap, labels: tuple[NDArray[np.int32], NDArray[np.int32]] | None = None
    ) -> None:
        """Count one image.

        Args:
            overlap: of its panoptic result and its ground truth.
            labels: maps of predicted and true labels for mIoU; those of `overlap` if left out.
        """
        self.pq.add(overlap)  # refuses areas that cannot be; the image then does not count
        self.images += 1
        if labels is None:
            self.miou.add(overlap)
        else:
            self.miou.update(*labels)

    def add_image(
        self,
        result: Segmentation,
        ids: NDArray[np.int32],
        segments: SegmentTable,
        *,
        image_id: int | str | None = None,
    ) -> tuple[Segmentation, Overlap]:
        """Count one image from its result and its ground truth.

        Args:
            result: of the image, at any size; compared at that of the ground truth.
            ids, segments: the ground truth, as a `Sample` or a data set has it.
            image_id: what messages call the image.

        Returns:
            The result at the size of the ground truth, and their overlap.

        Raises:
            DataError: the ground truth does not agree with itself.
        """
        result = result.resized((ids.shape[0], ids.shape[1]))
        overlap = Overlap.of(
            result.ids, result.segments, ids, segments, categories=self.categories, image=image_id
        )
        self.add(overlap)
        return result, overlap

    def merge(self, other: Figures) -> None:
        """Add the images of another part, but for mask AP."""
        self.images += other.images
        self.pq.merge_state(other.pq.state)
        self.miou.merge_state(other.miou.state)

    @property
    def headline(self) -> tuple[str, float]:
        """(name, fraction): PQ of things, or of everything where no thing occurs; mIoU of semantic data."""
        if not self.categories.is_thing.any():
            return "mIoU", self.miou.compute().miou
        quality = self.pq.compute()
        return ("PQ of things", quality.things.pq) if quality.things.n else ("PQ", quality.all.pq)

    def to_json(self) -> dict[str, Any]:
        """`All`, `Things`, `Stuff`, `per_class` of PQ; `mIoU`; `AP50_pooled`; `AP` where it was asked for."""
        answer = {"images": self.images, **self.pq.compute().to_json()}
        answer["mIoU"] = self.miou.compute().to_json()
        answer["AP50_pooled"] = pooled_average_precision(self.pq.state, self.categories).to_json()
        if self.mask_ap is not None:
            answer["AP"] = self.mask_ap.compute().to_json()
        return answer


@dataclass
class Evaluation:
    """What `evaluate` gives.

    Attributes:
        total: over all images.
        groups: by the value of the key asked for.
        quality: (index, share of right things in 0…1) of each image: TP / (TP + FP/2 + FN/2) times mean IoU.
        failures: (file, reason) of images that could not be read.
        semantic_from, instances_from: what mIoU and mask AP were measured on, see `evaluate`.
    """

    semantic_from: Source
    instances_from: Source
    total: Figures
    groups: dict[str, Figures]
    quality: list[tuple[int, float]]
    failures: list[tuple[str, str]]


def require_same_categories(model: Categories, data: Categories) -> None:
    """Refuses data whose categories mean something else than the model's (order and colours may differ).

    Raises:
        ConfigError: names both and the way out.
    """
    if found := differences(model, data, "the model", "the data"):
        text = "; ".join(text for _, text in found[:3]) + ("; …" if len(found) > 3 else "")
        raise ConfigError(
            f"the model has other categories than the data: {text}",
            fix="evaluate on data with the model's categories, or train on this data first, from the model "
            "(maskconver train --init-from)",
        )


def evaluate(
    predictor: Predictor,
    dataset: PanopticDataset,
    *,
    by: str | None = None,
    mask_ap: bool = False,
    semantic_from: Source | None = None,
    instances_from: Source | None = None,
    on_image: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Segments every image and compares, streaming; nothing is kept per image but one number.

    Args:
        predictor: of a model with the data's categories.
        dataset: with ground truth.
        by: a key of `images[]` to group by, e.g. `image_type`.
        mask_ap: also COCO mask AP of the things (extra `ap`).
        semantic_from: where mIoU comes from: the `panoptic` result, in which void counts as wrong, or the
            `scores` of all masks, in which every pixel has a class; see `merge.semantic`. None takes what
            the model's papers report: `scores` of kMaX-DeepLab and ReMaX, `panoptic` of MaskConver.
        instances_from: the same choice for mask AP: thing segments of the `panoptic` result, or the best 100
            pairs of a mask and a class by their `scores`; see `merge.instances`.
        on_image: called after each image.

    Raises:
        ConfigError: categories differ, no image has the key, or the model's file gives panoptic maps only.
        MissingExtraError: `mask_ap` without hotcoco.
    """
    require_same_categories(predictor.categories, dataset.categories)
    dataset.use_categories(predictor.categories)
    categories = dataset.categories
    if not len(dataset):
        raise DataError(f"{dataset.path}: no annotated image, nothing to evaluate")
    if by and not any(by in dataset.info(i) for i in range(len(dataset))):
        raise ConfigError(f'no image has the key "{by}"; images have {", ".join(sorted(dataset.info(0)))}')
    most = int(dataset.segment_counts.max())
    total = Figures(categories, mask_ap=MaskAveragePrecision(categories, max(100, most)) if mask_ap else None)
    usual = predictor.dense_from
    result = Evaluation(semantic_from or usual, instances_from or usual, total, {}, [], [])
    scored = mask_ap and result.instances_from == "scores"
    predictor = predictor.for_dataset().answering(
        semantic=result.semantic_from == "scores", instances=max(TOP, most) if scored else 0
    )
    sizes: dict[int, tuple[int, ...]] = {}

    def read(index: int) -> NDArray[Any]:
        image = dataset.image(index)
        sizes[index] = image.shape
        return image

    with closing(predictor.stream(range(len(dataset)), read=read, keep_images=False)) as answers:
        for index, answer in answers:
            try:
                if isinstance(answer, MaskconverError):
                    raise answer
                ids = dataset.ids(index)
                dataset.require_fit(index, sizes.pop(index), ids.shape)
                _count(result, answer, ids, dataset, index, by=by)
            except (MaskconverError, OSError) as error:
                result.failures.append(failure(dataset.image_path(index), error))
            on_image()
    return result


def failure(path: str, error: Exception) -> tuple[str, str]:
    """(file, reason) of an image that could not be read."""
    told = isinstance(error, MaskconverError) and error.where == path
    return path, error.text if told else one_line(error)  # type: ignore[attr-defined]


def _count(
    result: Evaluation,
    answer: Segmentation,
    ids: NDArray[np.int32],
    dataset: PanopticDataset,
    index: int,
    *,
    by: str | None,
) -> None:
    segments = dataset.segments(index)
    answer = answer.resized((ids.shape[0], ids.shape[1]))
    overlap = Overlap.of(
        answer.ids,
        answer.segments,
        ids,
        segments,
        categories=dataset.categories,
        image=dataset.image_ids[index],
    )
    labels = None
    if answer.semantic is not None:
        labels = answer.semantic, lookup(ids, segments.ids, segments.labels, VOID_LABEL)
    result.total.add(overlap, labels)
    if result.total.mask_ap is not None and answer.instances is not None:
        result.total.mask_ap.update_instances(answer.instances, ids, segments)
    elif result.total.mask_ap is not None:
        scores = [s.score for s in answer]
        result.total.mask_ap.update(answer.ids, answer.segments, scores, ids, segments)
    if by:
        group = str(dataset.info(index).get(by))
        result.groups.setdefault(group, Figures(dataset.categories)).add(overlap, labels)
    result.quality.append((index, _quality(overlap, dataset.categories)))


def _quality(overlap: Overlap, categories: Categories) -> float:
    """PQ of one image's things, classes pooled; of everything where there are no things."""
    matches = match_segments(overlap)
    things = (
        categories.is_thing
        if categories.is_thing[overlap.gt.labels].any()
        else np.ones(len(categories), bool)
    )
    hits = things[overlap.gt.labels[matches.gt]]
    wrong = things[overlap.pred.labels[matches.false_positives]].sum()
    missed = things[overlap.gt.labels[matches.false_negatives]].sum()
    weight = hits.sum() + 0.5 * (wrong + missed)
    return float(matches.iou[hits].sum() / weight) if weight else math.nan


def write_gallery(
    folder: Path,
    predictor: Predictor,
    dataset: PanopticDataset,
    *,
    quality: list[tuple[int, float]],
    count: int = 8,
) -> list[Path]:
    """Draws the best and worst predictions beside their ground truth.

    Args:
        folder: gets `best_01_….jpg` and `worst_01_….jpg`, prediction left, ground truth right.
        predictor, dataset: as evaluated.
        quality: of `Evaluation`.
        count: of each kind.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ranked = sorted((row for row in quality if not math.isnan(row[1])), key=lambda row: -row[1])
    chosen = [("best", ranked[:count]), ("worst", ranked[::-1][:count])]
    paths = []
    predictor = predictor.for_dataset()
    for kind, rows in chosen:
        for number, (index, value) in enumerate(rows, 1):
            sample = dataset[index]
            prediction = predictor(sample.image).resized((sample.ids.shape[0], sample.ids.shape[1]))
            truth = sample.segmentation(dataset.categories)
            pair = side_by_side(prediction.draw(sample.image), truth.draw())
            path = folder / f"{kind}_{number:02d}_{100 * value:03.0f}_{Path(sample.file_name).stem}.jpg"
            pair.save(path, quality=88)
            paths.append(path)
    return paths


def tune(
    predictor: Predictor,
    dataset: PanopticDataset,
    score_thresholds: tuple[float, ...] | None = None,
    *,
    overlap_thresholds: tuple[float, ...] | None = None,
    on_image: Callable[[], None] = lambda: None,
) -> tuple[PostprocessConfig, list[tuple[float, float, float]]]:
    """The thresholds with the best `Figures.headline`: PQ of things, or mIoU of semantic models.

    The network runs once an image or tile; only the merge is repeated. Where the data has no things and the
    model a threshold of its own for stuff, that one is varied in place of `score_threshold`.

    Args:
        predictor, dataset: as for `evaluate`.
        score_thresholds, overlap_thresholds: the values that are tried, in all combinations; None tries what
            suits things or, where there are none, semantic segmentation.
        on_image: called after each image.

    Returns:
        The best merge config, and (score threshold, overlap threshold, figure) of every combination.

    Raises:
        ConfigError: categories differ, or the model's file gives results alone.
        DataError: nothing is annotated, or no image can be evaluated.

    Warns:
        DataWarning: an image that cannot be evaluated, and is left out for all thresholds.
    """
    require_same_categories(predictor.categories, dataset.categories)
    dataset.use_categories(predictor.categories)
    usual = TRIED_THINGS if dataset.categories.is_thing.any() else TRIED_SEMANTIC
    scores, overlaps = score_thresholds or usual[0], overlap_thresholds or usual[1]
    stuff = RULES[predictor.postprocess.rule].stuff_field(predictor.postprocess)
    varied = "score_threshold" if _has_things(dataset) else stuff
    grid = list(product(scores, overlaps))
    thresholds: list[dict[str, Any]] = [{varied: s, "overlap_threshold": o} for s, o in grid]
    configs = [replace(predictor.postprocess, **t) for t in thresholds]
    metrics = [Figures(dataset.categories) for _ in grid]
    answers = _answering(predictor, configs, min(scores))
    for index in range(len(dataset)):
        own = [Figures(dataset.categories) for _ in grid]
        try:
            image, ids, segments = dataset.image(index), dataset.ids(index), dataset.segments(index)
            dataset.require_fit(index, image.shape, ids.shape)
            for figures, answer in zip(own, answers(image)):
                figures.add_image(answer, ids, segments, image_id=dataset.image_ids[index])
        except (MaskconverError, OSError, MemoryError, RuntimeError) as error:
            path, reason = failure(dataset.image_path(index), error)
            warnings.warn(f"{path}: {reason}; thresholds are chosen without it", DataWarning, stacklevel=2)
        else:
            for metric, figures in zip(metrics, own):
                metric.merge(figures)
        on_image()
    if not metrics[0].images:
        raise DataError(f"{dataset.path}: no image can be evaluated, so thresholds cannot be chosen")
    values = [m.headline[1] for m in metrics]
    if all(math.isnan(value) for value in values):
        raise DataError(f"{dataset.path}: nothing is annotated, so thresholds cannot be chosen")
    return configs[int(np.nanargmax(values))], [(*g, v) for g, v in zip(grid, values)]


def _has_things(dataset: PanopticDataset) -> bool:
    is_thing = dataset.categories.is_thing
    for index in range(len(dataset) if is_thing.any() else 0):
        with suppress(MaskconverError, OSError):  # whoever evaluates the image says why it cannot be read
            if is_thing[dataset.segments(index).labels].any():
                return True
    return False


def _answering(
    predictor: Predictor, configs: list[PostprocessConfig], least: float
) -> Callable[[NDArray[Any]], Iterator[Segmentation]]:
    """Gives an image's results with each of the thresholds, of which `least` is the lowest score."""
    predictor.require_proposals()
    predictor = predictor.for_dataset()
    independent = RULES[predictor.postprocess.rule].independent_masks
    keep = partial(above, least=least) if independent else Proposals.numpy
    whole = copy(predictor)
    whole.tiles = None

    def answers(image: NDArray[Any]) -> Iterator[Segmentation]:
        if predictor.cuts(image.shape):
            return _in_tiles(predictor, image, configs, Replay(predictor.runtime, keep, least))
        found = keep(replace(whole.proposals(image), class_logits=None))
        return (whole.segmentations(found, config)[0] for config in configs)

    return answers


def _in_tiles(
    predictor: Predictor,
    image: NDArray[Any],
    configs: list[PostprocessConfig],
    replay: Replay,
) -> Iterator[Segmentation]:
    """An image in tiles with each of the thresholds; the network runs once."""
    one = copy(predictor)
    for one.postprocess in configs:
        one.runtime = replay.runtime()
        yield one(image)
