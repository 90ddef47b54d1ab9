"""Average precision at one IoU, pooled over the set: TP / (TP + FP + FN), as in nuclei segmentation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..core.categories import Categories
from ..errors import ConfigError
from .overlap import Counts, Overlap, Segments
from .panoptic_quality import match_segments


@dataclass(frozen=True, slots=True)
class PooledAPResult:
    """The figure and what it is made of.

    Attributes:
        ap: TP / (TP + FP + FN) over the things of all classes and images, 0…1; NaN if there is none.
        tp, fp, fn: the counts.
        per_class: the same fraction by category id, things only.
    """

    ap: float
    tp: int
    fp: int
    fn: int
    per_class: dict[int, float]

    def to_json(self) -> dict[str, Any]:
        """The same with null for NaN and category ids as text."""
        classes = {str(i): None if math.isnan(v) else v for i, v in self.per_class.items()}
        ap = None if math.isnan(self.ap) else self.ap
        return {"ap": ap, "tp": self.tp, "fp": self.fp, "fn": self.fn, "per_class": classes}


def pooled_average_precision(counts: ArrayLike, categories: Categories) -> PooledAPResult:
    """TP / (TP + FP + FN) over all things of a set.

    This is the average precision of the 2018 Data Science Bowl and of StarDist at one threshold, with the
    counts of all images added up before dividing.

    Args:
        counts: (C, 3 or more): tp, fp, fn of each label, as in the state of `PanopticQuality` (IoU > 0.5).
        categories: the C categories; stuff is left out.
    """
    things = categories.is_thing
    rows = np.asarray(counts, float)[things, :3]
    tp, fp, fn = (int(v) for v in rows.sum(axis=0))
    totals = rows.sum(axis=1)
    share = np.full(len(rows), np.nan)
    np.divide(rows[:, 0], totals, out=share, where=totals > 0)
    per_class = {int(i): float(v) for i, v in zip(categories.ids[things], share)}
    return PooledAPResult(tp / (tp + fp + fn) if tp + fp + fn else math.nan, tp, fp, fn, per_class)


class PooledAveragePrecision(Counts):
    """Average precision of things at one IoU, image by image; the state is tp, fp, fn of each label.

    Segments are matched as for PQ, with the COCO rules for void and crowd (see `match_segments`).

    Args:
        categories: the label set.
        threshold: a pair matches if its IoU is above it; 0.5…1, where a segment can have one partner only.

    Raises:
        ConfigError: the threshold is out of range.
    """

    def __init__(self, categories: Categories, threshold: float = 0.5) -> None:
        if not 0.5 <= threshold < 1:
            raise ConfigError(f"the IoU threshold {threshold} is not in 0.5…1, where matches are unique")
        super().__init__(categories, columns=3)
        self.threshold = threshold

    def update(
        self,
        pred_ids: ArrayLike,
        pred_segments: Segments,
        gt_ids: ArrayLike,
        gt_segments: Segments,
        *,
        image: int | str | None = None,
    ) -> None:
        """Add an image; arguments and errors as for `PanopticQuality.update`."""
        self.add(Overlap.of(pred_ids, pred_segments, gt_ids, gt_segments, self.categories, image))

    def add(self, overlap: Overlap) -> None:
        """Add an image whose joint histogram is there already."""
        matches = match_segments(overlap, self.threshold)
        found = (
            overlap.gt.labels[matches.gt],
            overlap.pred.labels[matches.false_positives],
            overlap.gt.labels[matches.false_negatives],
        )
        for column, labels in enumerate(found):
            self._counts[:, column] += np.bincount(labels, minlength=len(self.categories))

    def compute(self) -> PooledAPResult:
        """The figures over all images so far."""
        return pooled_average_precision(self._counts, self.categories)
