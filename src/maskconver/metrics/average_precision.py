"""Average precision at one IoU, pooled over the set: TP / (TP + FP + FN), as in nuclei segmentation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..core.categories import Categories


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
