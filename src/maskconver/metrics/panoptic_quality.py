"""Panoptic quality (Kirillov et al., Panoptic Segmentation, CVPR 2019) by the COCO evaluation's rules."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..core.categories import Categories
from ..errors import DataError
from .overlap import Counts, Overlap, Segments


@dataclass(frozen=True, slots=True)
class Matches:
    """What became of each segment of one image; all arrays are row numbers, in the order of the tables.

    Attributes:
        gt, pred, iou: (M,) the matched pairs and their IoU (float64).
        false_positives, ignored: predictions that count, and that do not count, as mistakes.
        false_negatives: segments of the ground truth that were missed.
    """

    gt: NDArray[np.int64]
    pred: NDArray[np.int64]
    iou: NDArray[np.float64]
    false_positives: NDArray[np.int64]
    ignored: NDArray[np.int64]
    false_negatives: NDArray[np.int64]


def match_segments(overlap: Overlap, threshold: float = 0.5) -> Matches:
    """Pair segments of one category whose IoU is above the threshold, by the rules of the COCO evaluation.

    With V the void pixels of the ground truth, IoU = |p∩g| / (|p| + |g| − |p∩g| − |p∩V|), so void never
    counts against a prediction; |g| is the stated area where the table has one. Crowd segments are neither
    matched nor missed. A prediction without a partner is ignored if more than half of it lies in void and in
    the crowd segment of its category (the last one listed), and a false positive otherwise.

    Args:
        overlap: of one image.
        threshold: strict lower bound of the IoU, at least 0.5 so that there can be one partner only.

    Raises:
        DataError: a stated area is smaller than what the segment shares with its partner.
    """
    pred, gt = overlap.pred, overlap.gt
    shared = overlap.joint[: len(gt), : len(pred)]
    pred_areas = np.add.reduce(overlap.joint, 0)[:-1]
    gt_areas = np.where(gt.areas > 0, gt.areas, np.add.reduce(overlap.joint, 1)[:-2])
    in_void = overlap.joint[len(gt), :-1]

    g, p = np.nonzero(shared)
    same = (gt.labels[g] == pred.labels[p]) & ~gt.crowd[g]
    g, p = g[same], p[same]
    common = shared[g, p]
    union = pred_areas[p] + gt_areas[g] - common - in_void[p]
    if (union < common).any():
        wrong = g[union < common][0]
        where = "" if overlap.image is None else f"image {overlap.image}: "
        raise DataError(
            f"{where}ground truth segment {gt.ids[wrong]} has more pixels than the stated area "
            f"{gt.areas[wrong]}, which gives an IoU above 1; correct the area or leave it out"
        )
    iou = common / union
    hit = iou > threshold
    g, p, iou = g[hit], p[hit], iou[hit]

    excused = in_void.copy()
    crowd_of = {int(gt.labels[row]): row for row in gt.crowd.nonzero()[0]}  # the last of each category
    for label, row in crowd_of.items():
        mine = pred.labels == label
        excused[mine] += shared[row, mine]
    alone = np.ones(len(pred), bool)
    alone[p] = False
    ignored = alone & (2 * excused > pred_areas)
    missed = ~gt.crowd
    missed[g] = False
    return Matches(g, p, iou, *(m.nonzero()[0] for m in (alone & ~ignored, ignored, missed)))


@dataclass(frozen=True, slots=True)
class GroupQuality:
    """Means over the `n` classes of a group that occur at all; fractions 0…1, NaN where n = 0."""

    pq: float
    sq: float
    rq: float
    n: int


@dataclass(frozen=True, slots=True)
class ClassQuality:
    """One class: fractions 0…1, counts of segments, and the sum of IoU over the matched ones."""

    pq: float
    sq: float
    rq: float
    tp: int
    fp: int
    fn: int
    iou: float


@dataclass(frozen=True, slots=True)
class PanopticQualityResult:
    """What `PanopticQuality.compute` gives.

    Attributes:
        all, things, stuff: means over classes.
        per_class: by category id, in label order; all zero for a class that does not occur.
        per_image: with `details=True`, for each image its matched pairs and mistakes, by segment id.
    """

    all: GroupQuality
    things: GroupQuality
    stuff: GroupQuality
    per_class: dict[int, ClassQuality]
    per_image: list[dict[str, Any]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """`All`, `Things`, `Stuff` (null for a group without classes), `per_class`, `per_image` if kept."""
        groups = {"All": self.all, "Things": self.things, "Stuff": self.stuff}
        answer: dict[str, Any] = {name: asdict(g) if g.n else None for name, g in groups.items()}
        answer["per_class"] = {str(i): asdict(c) for i, c in self.per_class.items()}
        return answer | ({"per_image": self.per_image} if self.per_image else {})


def panoptic_quality(counts: NDArray[np.float64], categories: Categories) -> PanopticQualityResult:
    """PQ, SQ and RQ from the counts of a whole set.

    For each class SQ = ΣIoU / TP (0 if TP = 0), RQ = TP / (TP + FP/2 + FN/2), PQ = ΣIoU / (TP + FP/2 + FN/2);
    then means over the classes with TP + FP + FN > 0.

    Args:
        counts: (C, 4) float64: tp, fp, fn and ΣIoU of each label.
        categories: the C categories.
    """
    tp, fp, fn, iou = counts.T
    weight = tp + 0.5 * (fp + fn)
    occurs = weight > 0
    pq, rq = (np.divide(x, weight, out=np.zeros_like(x), where=occurs) for x in (iou, tp))
    sq = np.divide(iou, tp, out=np.zeros_like(iou), where=tp > 0)

    def mean(chosen: NDArray[np.bool_]) -> GroupQuality:
        n = int(chosen.sum())
        values = [float(v[chosen].mean()) if n else math.nan for v in (pq, sq, rq)]
        return GroupQuality(values[0], values[1], values[2], n)

    per_class = {}
    for row, category in enumerate(categories):
        found = (int(tp[row]), int(fp[row]), int(fn[row]))
        per_class[category.id] = ClassQuality(
            float(pq[row]), float(sq[row]), float(rq[row]), *found, float(iou[row])
        )
    things = categories.is_thing
    return PanopticQualityResult(mean(occurs), mean(occurs & things), mean(occurs & ~things), per_class)


class PanopticQuality(Counts):
    """Panoptic quality, image by image; the state is tp, fp, fn and ΣIoU of each label, (C, 4) float64.

    Example:
        >>> import numpy as np
        >>> from maskconver import Categories, Category, PanopticQuality
        >>> metric = PanopticQuality(Categories([Category(1, "cell", True, (255, 0, 0))]))
        >>> ids = np.array([[0, 7, 7], [9, 9, 0]], np.int32)
        >>> metric.update(ids, ([7, 9], [0, 0]), ids, ([7, 9], [0, 0]))
        >>> metric.compute().all.pq
        1.0

    Args:
        categories: the label set.
        details: also keep, for each image, which segments were matched, invented, missed and ignored.
    """

    def __init__(self, categories: Categories, *, details: bool = False) -> None:
        super().__init__(categories, columns=4, dtype=np.float64)
        self.details: list[dict[str, Any]] | None = [] if details else None

    def reset(self) -> None:
        """Forget all images."""
        super().reset()
        if self.details is not None:
            self.details = []

    def update(
        self,
        pred_ids: ArrayLike,
        pred_segments: Segments,
        gt_ids: ArrayLike,
        gt_segments: Segments,
        *,
        image: int | str | None = None,
    ) -> None:
        """Add an image.

        Args:
            pred_ids, gt_ids: (H, W) integers, the segment id of each pixel, 0 = void.
            pred_segments, gt_segments: their rows: a `SegmentTable`, a list of `Segment` or of COCO rows, or
                a pair of arrays `(ids, labels)`. Areas that the ground truth states are believed, as the COCO
                evaluation does; areas of predictions are counted.
            image: what messages and details call the image.

        Raises:
            DataError: sizes differ, ids and rows of the prediction disagree, a category is unknown (see
                `Overlap.of`).
        """
        self.add(
            Overlap.of(pred_ids, pred_segments, gt_ids, gt_segments, categories=self.categories, image=image)
        )

    def add(self, overlap: Overlap) -> None:
        """Add an image whose joint histogram is there already (one serves several metrics)."""
        matches = match_segments(overlap)
        gt_labels, pred_labels, classes = overlap.gt.labels, overlap.pred.labels, len(self.categories)
        hits = gt_labels[matches.gt]
        # The four columns as one row of figures, column after column.
        labels = (hits, pred_labels[matches.false_positives], gt_labels[matches.false_negatives], hits)
        places = np.concatenate([of + classes * column for column, of in enumerate(labels)])
        weights = np.ones(len(places))
        weights[len(places) - len(hits) :] = matches.iou
        self._counts += np.bincount(places, weights, 4 * classes).reshape(4, classes).T
        if self.details is not None:
            self.details.append(_details(overlap, matches, self.categories))

    def compute(self) -> PanopticQualityResult:
        """The figures over all images so far."""
        result = panoptic_quality(self._counts, self.categories)
        result.per_image.extend(self.details or [])
        return result


def _details(overlap: Overlap, matches: Matches, categories: Categories) -> dict[str, Any]:
    """One image of `per_image`: matched pairs with IoU, and the ids of what was not matched."""
    gt_ids, pred_ids = overlap.gt.ids, overlap.pred.ids

    def ids(column: NDArray[np.int32], rows: NDArray[np.int64]) -> list[int]:
        return sorted(column[rows].tolist())

    pairs = sorted(
        zip(gt_ids[matches.gt].tolist(), pred_ids[matches.pred].tolist(), matches.gt, matches.iou.tolist())
    )
    return {
        "image_id": overlap.image,
        "tp": [
            {"gt": g, "pred": p, "category_id": categories[int(overlap.gt.labels[row])].id, "iou": iou}
            for g, p, row, iou in pairs
        ],
        "fp": ids(pred_ids, matches.false_positives),
        "fn": ids(gt_ids, matches.false_negatives),
        "ignored_pred": ids(pred_ids, matches.ignored),
    }
