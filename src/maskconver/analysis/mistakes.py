"""Every segment that costs panoptic quality, with its cause, in one image."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from ..metrics.overlap import Overlap
from ..metrics.panoptic_quality import match_segments

CAUSES = {
    "boundary": "found, but its edge lies beside the true edge",
    "coverage": "found, but a part away from the edge is missing or too much",
    "wrong class": "found with the right outline, but named as another class",
    "merged": "one prediction covers several true segments",
    "split": "several predictions share one true segment",
    "inaccurate": "found, but the overlap is too small to count (IoU of 0.1 to 0.5)",
    "missed": "nothing was predicted there",
    "spurious": "predicted where there is nothing of the kind",
}
"""What can go wrong. The first two lower SQ, the others RQ."""

LEAST_IOU = 0.1  # below, a prediction and a true segment have nothing to do with each other


@dataclass(slots=True)
class Mistakes:
    """One row for each true segment and each prediction that counts, except that a matched pair is one row.

    The loss of a row, divided by TP + FP/2 + FN/2 of its class, is its share of 1 - PQ of the class
    (Kirillov et al., CVPR 2019): 1 - IoU for a matched pair, 1/2 for a missed or a spurious segment.

    Attributes:
        image: (M,) index of the image.
        label: (M,) the class that pays: of the true segment, or of the prediction where there is none.
        other: (M,) the class it was taken for, or that was there; -1 unless the cause is `wrong class`.
        matched: (M,) bool, a pair; otherwise a single segment.
        predicted: (M,) bool, a prediction without a partner (FP); otherwise FN, or a pair.
        cause: (M,) index into `CAUSES`; of a pair always `boundary`, see `edge`.
        loss: (M,) float64, see above.
        edge: (M,) float64, the share of a pair's loss that lies at the boundary, 0 to 1.
        iou: (M,) float64: of a pair, or the best IoU with a segment of the class; 0 where there is none.
        area: (M,) pixels, of the true segment where there is one.
        border: (M,) bool, it touches the border of the image.
        crowded: (M,) bool, it touches another segment of a thing.
        score: (M,) float64 of the prediction; NaN where there is none.
        segment: (M,) the id, of the true segment where there is one.
    """

    image: NDArray[np.int64]
    label: NDArray[np.int64]
    other: NDArray[np.int64]
    matched: NDArray[np.bool_]
    predicted: NDArray[np.bool_]
    cause: NDArray[np.int64]
    loss: NDArray[np.float64]
    edge: NDArray[np.float64]
    iou: NDArray[np.float64]
    area: NDArray[np.int64]
    border: NDArray[np.bool_]
    crowded: NDArray[np.bool_]
    score: NDArray[np.float64]
    segment: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, which: NDArray[np.bool_]) -> Mistakes:
        return Mistakes(*(getattr(self, f.name)[which] for f in fields(self)))

    @classmethod
    def concatenate(cls, parts: list[Mistakes]) -> Mistakes:
        """The rows of several images."""
        parts = parts or [find_mistakes_of_nothing()]
        return cls(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)))


def find_mistakes_of_nothing() -> Mistakes:
    """A table without rows."""
    kinds = (int, int, int, bool, bool, int, float, float, float, int, bool, bool, float, int)
    return Mistakes(*(np.zeros(0, kind) for kind in kinds))


def find_mistakes(
    overlap: Overlap,
    pred_ids: NDArray[np.integer],
    gt_ids: NDArray[np.integer],
    is_thing: NDArray[np.bool_],
    *,
    scores: NDArray[np.float64] | None = None,
    image: int = 0,
) -> Mistakes:
    """Match one image as the metric does, and say of every segment what became of it.

    A single segment gets the first cause that fits:

    - wrong class: a true segment and a prediction without partners, of different classes, with IoU > 0.5.
    - merged: a prediction holds more than half of each of several true segments of its class.
    - split: several predictions of the class lie mostly in one true segment.
    - inaccurate: the IoU with the best segment of the class is at least 0.1.
    - missed or spurious: nothing of this.

    Args:
        overlap: of the image.
        pred_ids, gt_ids: (H, W), the maps it was made of.
        is_thing: (C,) of the label set.
        scores: (P,) of the predictions in the order of `overlap.pred`.
        image: what the rows say.
    """
    matches = match_segments(overlap)
    pred, gt = overlap.pred, overlap.gt
    joint = overlap.joint[: len(gt), : len(pred)]
    pred_areas, gt_areas = overlap.joint.sum(axis=0)[:-1], overlap.joint.sum(axis=1)[:-2]
    void = overlap.joint[len(gt), :-1]
    union = gt_areas[:, None] + pred_areas[None] - joint - void[None]
    iou = joint / np.maximum(union, 1)
    same = (gt.labels[:, None] == pred.labels[None]) & ~gt.crowd[:, None]
    fn, fp = matches.false_negatives, matches.false_positives

    in_gt = joint / np.maximum(gt_areas, 1)[:, None]
    in_pred = joint / np.maximum(pred_areas, 1)[None]
    covered = same & (in_gt > 0.5)  # more than half of a true segment lies in the prediction
    merging = covered.sum(axis=0) > 1
    parts = same & (in_pred > 0.5)  # more than half of a prediction lies in the true segment
    divided = parts.sum(axis=1) > 1

    names = list(CAUSES)
    gt_cause = np.full(len(gt), names.index("missed"))
    pred_cause = np.full(len(pred), names.index("spurious"))
    gt_best = np.where(same, iou, 0).max(axis=1, initial=0)
    pred_best = np.where(same, iou, 0).max(axis=0, initial=0)
    gt_cause[gt_best >= LEAST_IOU] = names.index("inaccurate")
    pred_cause[pred_best >= LEAST_IOU] = names.index("inaccurate")
    gt_cause[divided] = names.index("split")
    pred_cause[(parts & divided[:, None]).any(axis=0)] = names.index("split")
    gt_cause[(covered & merging[None]).any(axis=1)] = names.index("merged")
    pred_cause[merging] = names.index("merged")
    gt_other, pred_other = np.full(len(gt), -1), np.full(len(pred), -1)
    if len(fn) and len(fp):
        rows, columns = np.nonzero((iou[np.ix_(fn, fp)] > 0.5) & ~same[np.ix_(fn, fp)])
        gt_cause[fn[rows]] = pred_cause[fp[columns]] = names.index("wrong class")
        gt_other[fn[rows]] = pred.labels[fp[columns]]
        pred_other[fp[columns]] = gt.labels[fn[rows]]

    edge = _edge_share(overlap, matches.gt, matches.pred, pred_ids, gt_ids)
    gt_border, gt_crowded = _neighbours(gt_ids, gt.ids, is_thing[gt.labels])
    pred_border, pred_crowded = _neighbours(pred_ids, pred.ids, is_thing[pred.labels])
    given = np.full(len(pred), np.nan) if scores is None else np.asarray(scores, np.float64)
    m, n, k = len(matches.gt), len(fn), len(fp)
    half, zeros = np.full(n + k, 0.5), np.zeros(n + k)
    return Mistakes(
        np.full(m + n + k, image),
        np.concatenate([gt.labels[matches.gt], gt.labels[fn], pred.labels[fp]]),
        np.concatenate([np.full(m, -1), gt_other[fn], pred_other[fp]]),
        np.arange(m + n + k) < m,
        np.arange(m + n + k) >= m + n,
        np.concatenate([np.zeros(m, int), gt_cause[fn], pred_cause[fp]]),
        np.concatenate([1 - matches.iou, half]),
        np.concatenate([edge, zeros]),
        np.concatenate([matches.iou, gt_best[fn], pred_best[fp]]),
        np.concatenate([gt_areas[matches.gt], gt_areas[fn], pred_areas[fp]]).astype(np.int64),
        np.concatenate([gt_border[matches.gt], gt_border[fn], pred_border[fp]]),
        np.concatenate([gt_crowded[matches.gt], gt_crowded[fn], pred_crowded[fp]]),
        np.concatenate([given[matches.pred], np.full(n, np.nan), given[fp]]),
        np.concatenate([gt.ids[matches.gt], gt.ids[fn], pred.ids[fp]]).astype(np.int64),
    )


def edge_width(size: tuple[int, ...]) -> int:
    """How many pixels from the true edge still count as *boundary*: 0.5 % of the diagonal."""
    return max(round(0.005 * math.hypot(*size[:2])), 1)


def _edge_share(
    overlap: Overlap,
    gt_rows: NDArray[np.int64],
    pred_rows: NDArray[np.int64],
    pred_ids: NDArray[np.integer],
    gt_ids: NDArray[np.integer],
) -> NDArray[np.float64]:
    """(M,) of each matched pair the share of its wrong pixels within `edge_width` of a true edge."""
    if not len(gt_rows):
        return np.zeros(0)
    pair_of_gt = _table(overlap.gt.ids[gt_rows], gt_ids)[gt_ids]  # 0 = no pair, else 1 + its number
    pair_of_pred = _table(overlap.pred.ids[pred_rows], pred_ids)[pred_ids]
    wrong = pair_of_gt != pair_of_pred
    near = _near_edges(gt_ids, edge_width(gt_ids.shape))
    pairs = len(gt_rows) + 1
    missing, extra = wrong, wrong & (gt_ids != 0)  # void never counts against a prediction
    total = np.bincount(pair_of_gt[missing], minlength=pairs) + np.bincount(
        pair_of_pred[extra], minlength=pairs
    )
    at_edge = np.bincount(pair_of_gt[missing & near], minlength=pairs) + np.bincount(
        pair_of_pred[extra & near], minlength=pairs
    )
    return np.asarray((at_edge / np.maximum(total, 1))[1:], np.float64)


def _table(ids: NDArray[np.integer], maps: NDArray[np.integer]) -> NDArray[np.int64]:
    table = np.zeros(max(int(maps.max(initial=0)), int(ids.max(initial=0))) + 1, np.int64)
    table[ids] = np.arange(1, len(ids) + 1)
    return table


def _near_edges(ids: NDArray[np.integer], width: int) -> NDArray[np.bool_]:
    """True within `width` steps of a change of the id, up, down, left or right."""
    near = np.zeros(ids.shape, bool)
    for axis in (0, 1):
        first, second = _shifted(axis)
        change = ids[first] != ids[second]
        near[first] |= change
        near[second] |= change
    for _ in range(width - 1):
        grown = near.copy()
        for axis in (0, 1):
            first, second = _shifted(axis)
            grown[first] |= near[second]
            grown[second] |= near[first]
        near = grown
    return near


def _shifted(axis: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    before = (slice(None),) * axis
    return (*before, slice(None, -1)), (*before, slice(1, None))


def _neighbours(
    ids: NDArray[np.integer], listed: NDArray[np.integer], thing: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(S,) of each listed id: whether it touches the border, and whether it touches another thing."""
    top = max(int(ids.max(initial=0)), int(listed.max(initial=0))) + 1
    border, crowded, is_thing = np.zeros(top, bool), np.zeros(top, bool), np.zeros(top, bool)
    for line in (ids[0], ids[-1], ids[:, 0], ids[:, -1]) if ids.size else ():
        border[line] = True
    is_thing[listed] = thing
    for axis in (0, 1):
        first, second = _shifted(axis)
        one, two = ids[first], ids[second]
        change = one != two
        one, two = one[change], two[change]
        crowded[one[is_thing[two]]] = True
        crowded[two[is_thing[one]]] = True
    return border[listed], crowded[listed]
