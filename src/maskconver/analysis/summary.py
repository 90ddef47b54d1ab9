"""From single mistakes to figures: losses that add up to 1 - PQ, groups, calibration, oracles, comparison."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.categories import Categories
from ..core.segmentation import Segmentation
from ..metrics.mask_ap import MaskAPErrors
from ..metrics.panoptic_quality import panoptic_quality
from .mistakes import CAUSES, Mistakes

SIZES = (("small, below 32² pixels", 0), ("medium", 32**2), ("large, from 96² pixels", 96**2))
BINS = 10  # of the calibration


@dataclass
class Analysis:
    """Everything `analyze` found.

    Attributes:
        categories: the label set.
        mistakes: all rows, see `Mistakes`.
        images: file name of each image, by index.
        indices: its place in the data set.
        groups: the value of the key asked for, of each image; empty if none was asked for.
        quality: PQ of each image over its segments of the things (of all classes if there are no things).
        sweeps: for each setting that was varied, (value, PQ) pairs; PQ over things where there are any.
            Without those that no image was segmented with.
        settings: the value of each varied setting in use.
        seconds: of each sweep for which the network ran again, seconds an image by value.
        unswept: how many images the sweeps leave out, as they are segmented in tiles.
        mask_ap: what AP at an IoU of 0.5 lacks, if it was asked for.
        kept: the worst results by index in the data set, as many as were asked for and memory allowed.
        failures: (file, reason) of images that could not be read.
    """

    categories: Categories
    mistakes: Mistakes
    images: list[str]
    indices: list[int] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    quality: list[float] = field(default_factory=list)
    sweeps: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    settings: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, dict[float, float]] = field(default_factory=dict)
    unswept: int = 0
    mask_ap: MaskAPErrors | None = None
    kept: dict[int, Segmentation] = field(default_factory=dict)
    failures: list[tuple[str, str]] = field(default_factory=list)

    @property
    def counts(self) -> NDArray[np.float64]:
        """(C, 4): TP, FP, FN and sum of IoU, as `PanopticQuality` counts them."""
        return counts_of(self.mistakes, len(self.categories))

    def losses(self, which: NDArray[np.bool_] | None = None, things: bool | None = None) -> dict[str, float]:
        """What each cause costs, in PQ from 0 to 1, averaged over the classes that occur.

        Args:
            which: (M,) only these rows; the others still count in TP + FP/2 + FN/2, so that parts add up.
            things: only things (true) or stuff (false).

        Returns:
            A value for each of `CAUSES`. Over all rows they add up to 1 - PQ.
        """
        table = self.losses_by_class(which)
        occurs = self._weights > 0
        if things is not None:
            occurs &= self.categories.is_thing == things
        total = table[occurs].sum(axis=0) / max(int(occurs.sum()), 1)
        return dict(zip(CAUSES, total.tolist()))

    def losses_by_class(self, which: NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
        """(C, causes): the part of 1 - PQ of each class that each cause takes; 0 without segments."""
        m = self.mistakes if which is None else self.mistakes[which]
        shape = len(self.categories), len(CAUSES)
        table = np.zeros(shape)
        boundary, coverage = list(CAUSES).index("boundary"), list(CAUSES).index("coverage")
        pair = m.matched
        table[:, boundary] = np.bincount(m.label[pair], m.loss[pair] * m.edge[pair], shape[0])
        table[:, coverage] = np.bincount(m.label[pair], m.loss[pair] * (1 - m.edge[pair]), shape[0])
        single = m.label[~pair] * shape[1] + m.cause[~pair]
        table += np.bincount(single, m.loss[~pair], shape[0] * shape[1]).reshape(shape)
        return np.asarray(table / np.maximum(self._weights, 0.5)[:, None])

    @property
    def _weights(self) -> NDArray[np.float64]:
        tp, fp, fn, _ = self.counts.T
        return np.asarray(tp + 0.5 * (fp + fn))

    def confusion(self) -> list[tuple[str, str, int]]:
        """(true class, predicted class, number) of segments found with the wrong name, sorted by number."""
        m = self.mistakes
        rows = (m.other >= 0) & ~m.predicted
        pairs, numbers = np.unique(np.stack([m.label[rows], m.other[rows]], 1), axis=0, return_counts=True)
        names = self.categories.names
        found = [(names[a], names[b], int(n)) for (a, b), n in zip(pairs.tolist(), numbers.tolist())]
        return sorted(found, key=lambda row: -row[2])

    def by(self, kind: str) -> list[dict[str, Any]]:
        """Figures of groups of segments.

        Args:
            kind: `class`, `size`, `position`, `crowding` or `group` (the key of the images).

        Returns:
            For each group its name, the number of segments of the ground truth, the share of them that was
            found, the mean IoU of those, the number of spurious predictions, PQ over its segments with all
            classes pooled, and the loss by cause in the same measure.
        """
        m = self.mistakes
        rows = []
        for name, which in self._groups(kind):
            part = m[which]
            pairs, missed, extra = part.matched, ~part.matched & ~part.predicted, part.predicted
            weight = pairs.sum() + 0.5 * (missed.sum() + extra.sum())
            if not weight:
                continue
            losses = np.bincount(part.cause[~pairs], part.loss[~pairs], len(CAUSES)) / weight
            losses[list(CAUSES).index("boundary")] += (part.loss * part.edge)[pairs].sum() / weight
            losses[list(CAUSES).index("coverage")] += (part.loss * (1 - part.edge))[pairs].sum() / weight
            true = int(pairs.sum() + missed.sum())
            rows.append(
                {
                    "name": name,
                    "segments": true,
                    "found": float(pairs.sum() / true) if true else None,
                    "iou": float(part.iou[pairs].mean()) if pairs.any() else None,
                    "spurious": int(extra.sum()),
                    "pq": float(part.iou[pairs].sum() / weight),
                    "losses": dict(zip(CAUSES, losses.tolist())),
                }
            )
        return rows

    def _groups(self, kind: str) -> list[tuple[str, NDArray[np.bool_]]]:
        m = self.mistakes
        things = self.categories.is_thing[m.label]
        if kind == "class":
            return [(c.name, m.label == label) for label, c in enumerate(self.categories)]
        if kind == "size":
            ends = [start for _, start in SIZES[1:]] + [math.inf]
            return [
                (name, things & (m.area >= low) & (m.area < high)) for (name, low), high in zip(SIZES, ends)
            ]
        if kind == "position":
            return [("at the border", things & m.border), ("inside", things & ~m.border)]
        if kind == "crowding":
            return [("touches another thing", things & m.crowded), ("alone", things & ~m.crowded)]
        values = np.array(self.groups, dtype=object)
        return [(str(v), values[m.image] == v) for v in sorted(set(self.groups))] if self.groups else []

    def calibration(self) -> list[dict[str, float]]:
        """How often predictions of each range of scores are right (matched); ideally as often as they say."""
        m = self.mistakes
        scored = ~np.isnan(m.score)
        bins = np.minimum((m.score[scored] * BINS).astype(int), BINS - 1)
        number = np.bincount(bins, minlength=BINS)
        right = np.bincount(bins, m.matched[scored], BINS)
        mean = np.bincount(bins, m.score[scored], BINS)
        return [
            {
                "score": float(mean[i] / number[i]),
                "right": float(right[i] / number[i]),
                "number": int(number[i]),
            }
            for i in range(BINS)
            if number[i]
        ]

    def oracles(self) -> dict[str, float]:
        """PQ (0 to 1, of all classes) if one part of the work were perfect and the rest as it is.

        - classes: segments found under a wrong name get the right one.
        - masks: found segments, also the inaccurate ones, have the true outline.
        - detection: nothing is missed, spurious, merged or split, and what is found is as good as now.
        """
        now = self.counts
        classes, masks, detection = now.copy(), now.copy(), now.copy()
        m = self.mistakes
        names = list(CAUSES)
        wrong = m.cause == names.index("wrong class")
        for label, other in zip(m.label[wrong & ~m.predicted], m.other[wrong & ~m.predicted]):
            quality = now[label, 3] / now[label, 0] if now[label, 0] else 0.75
            classes[label] += (1, 0, -1, quality)
            classes[other, 1] -= 1
        near = (m.cause == names.index("inaccurate")) & ~m.matched
        for label in range(len(now)):
            # As many pairs as there are inaccurate predictions and true segments left over.
            mine = near & (m.label == label)
            pairs = min((mine & m.predicted).sum(), (mine & ~m.predicted).sum())
            masks[label] += (pairs, -pairs, -pairs, pairs)
        masks[:, 3] = masks[:, 0]
        quality = np.divide(now[:, 3], now[:, 0], out=np.full(len(now), 0.75), where=now[:, 0] > 0)
        detection[:, 0] += detection[:, 2]
        detection[:, 3] = detection[:, 0] * quality
        detection[:, 1:3] = 0
        found = {"as it is": now, "classes": classes, "masks": masks, "detection": detection}
        return {name: panoptic_quality(c, self.categories).all.pq for name, c in found.items()}

    def sweep(self, name: str) -> list[dict[str, float]]:
        """The values of one setting: `value`, `pq` (0 to 1), and `seconds` an image where it was measured."""
        times = self.seconds.get(name, {})
        return [
            {"value": v, "pq": q} | ({"seconds": times[v]} if v in times else {})
            for v, q in self.sweeps[name]
        ]

    def advice(self) -> str:
        """What costs most, in one sentence."""
        losses = self.losses()
        quality = panoptic_quality(self.counts, self.categories).all.pq
        if math.isnan(quality):
            return "Nothing to judge: the images have no segments."
        if not (self.mistakes.matched | self.mistakes.predicted).any():
            return "The model finds nothing in these images. Train it longer, or lower the score threshold."
        if quality > 0.9999:
            return "Nothing is lost: every segment is found, with its outline and name."
        cause = max(losses, key=losses.__getitem__)
        what = {
            "boundary": "inexact edges. A finer stride or a larger input helps",
            "coverage": "parts of masks that are missing or too much. Longer training of the masks helps",
            "wrong class": "wrong names. More images of the confused classes help, or one class for both",
            "merged": "neighbours that become one segment. A larger input or more such images help",
            "split": "segments that break into pieces. More images of such objects help",
            "inaccurate": "objects whose masks are too far off to count. Longer training of the masks helps",
            "missed": "objects that are not found. A lower score threshold or more images of them help",
            "spurious": "predictions of nothing. A higher score threshold or more empty images help",
        }[cause]
        best = max((v, s, k) for k, curve in (self.sweeps or {"": [(0.0, -1.0)]}).items() for s, v in curve)
        used = dict(self.sweeps.get(best[2], [])).get(self.settings.get(best[2], math.nan), math.inf)
        hint = ""
        if best[0] - used > 0.005:
            gain = f"{100 * (best[0] - used):.1f} points more"
            hint = (
                f" On these images, {best[2]} {best[1]:g} instead of {self.settings[best[2]]:g} gives {gain}."
            )
        lost = f"{100 * losses[cause]:.1f} of {100 * (1 - quality):.1f} points"
        return f"Most quality ({lost}) is lost by {what}.{hint}"

    def to_json(self) -> dict[str, Any]:
        """All figures, as fractions from 0 to 1, null where there is nothing to measure."""
        quality = panoptic_quality(self.counts, self.categories)
        kinds = ("class", "size", "position", "crowding", *(("group",) if self.groups else ()))
        return {
            "images": len(self.images),
            **quality.to_json(),
            "advice": self.advice(),
            "losses": self.losses(),
            "by": {kind: self.by(kind) for kind in kinds},
            "confusion": [{"true": a, "predicted": b, "number": n} for a, b, n in self.confusion()],
            "calibration": self.calibration(),
            "oracles": {name: _plain(value) for name, value in self.oracles().items()},
            "sweeps": {
                name: [row | {"pq": _plain(row["pq"])} for row in self.sweep(name)] for name in self.sweeps
            },
            "unswept": self.unswept,
            **({"mask_ap": self.mask_ap.to_json()} if self.mask_ap else {}),
            "quality": dict(zip(self.images, map(_plain, self.quality))),
            "failed": [{"file": path, "reason": reason} for path, reason in self.failures],
        }


def _plain(value: float) -> float | None:
    """What JSON can hold, which has no NaN."""
    return None if math.isnan(value) else value


def counts_of(m: Mistakes, classes: int) -> NDArray[np.float64]:
    """(C, 4): TP, FP, FN and sum of IoU of the rows."""
    missed = ~m.matched & ~m.predicted
    columns = [m.matched, m.predicted, missed]
    counts = [np.bincount(m.label[column], minlength=classes) for column in columns]
    iou = np.bincount(m.label[m.matched], m.iou[m.matched], classes)
    return np.stack([*counts, iou], 1).astype(np.float64)


@dataclass(frozen=True)
class Comparison:
    """Two models on the same images.

    Attributes:
        first, second: PQ of all classes, 0 to 1.
        low, high: a 95 % interval of second - first: the images are drawn again, with repetition (paired
            bootstrap).
        better, worse: (file, quality of the first, of the second), the largest change first.
    """

    first: float
    second: float
    low: float
    high: float
    better: list[tuple[str, float, float]]
    worse: list[tuple[str, float, float]]

    def to_json(self) -> dict[str, Any]:
        """As a dictionary."""
        rows = {
            name: [{"file": f, "first": a, "second": b} for f, a, b in getattr(self, name)]
            for name in ("better", "worse")
        }
        return {name: _plain(getattr(self, name)) for name in ("first", "second", "low", "high")} | rows


def compare(first: Analysis, second: Analysis, *, draws: int = 1000, seed: int = 0) -> Comparison:
    """How much better the second model is, and whether that may be chance.

    Args:
        first, second: of the same data; images that failed for either are left out.
        draws: of the bootstrap.
        seed: of the draws.
    """
    both = sorted(set(first.indices) & set(second.indices))
    classes = len(first.categories)
    states = [_per_image(a, both, classes) for a in (first, second)]
    random = np.random.default_rng(seed)
    differences = []
    for _ in range(draws):
        if not both:
            break
        times = np.bincount(random.integers(len(both), size=len(both)), minlength=len(both))
        pair = [panoptic_quality(np.tensordot(times, s, 1), first.categories).all.pq for s in states]
        differences.append(pair[1] - pair[0])
    low, high = np.nanpercentile(differences, [2.5, 97.5]) if both else (math.nan, math.nan)
    totals = [panoptic_quality(s.sum(axis=0), first.categories).all.pq for s in states]
    names = dict(zip(first.indices, first.images))  # which two images may share
    qualities = [dict(zip(a.indices, a.quality)) for a in (first, second)]
    rows = [(names[index], qualities[0][index], qualities[1][index]) for index in both]
    rows = [row for row in rows if not math.isnan(row[1] + row[2])]
    rows.sort(key=lambda row: row[1] - row[2])
    better = [row for row in rows if row[2] > row[1]]
    worse = [row for row in reversed(rows) if row[2] < row[1]]
    return Comparison(totals[0], totals[1], float(low), float(high), better, worse)


def _per_image(analysis: Analysis, indices: list[int], classes: int) -> NDArray[np.float64]:
    """(N, C, 4) counts of each of some images, by their places in the data set."""
    m = analysis.mistakes
    place = {index: i for i, index in enumerate(analysis.indices)}
    states = np.zeros((len(analysis.images) * classes, 4))
    cell = m.image * classes + m.label
    missed = ~m.matched & ~m.predicted
    for column, rows in enumerate((m.matched, m.predicted, missed)):
        states[:, column] = np.bincount(cell[rows], minlength=len(states))
    states[:, 3] = np.bincount(cell[m.matched], m.iou[m.matched], len(states))
    return states.reshape(-1, classes, 4)[[place[index] for index in indices]]


def quality_of(part: Mistakes, is_thing: NDArray[np.bool_]) -> float:
    """PQ of the rows of one image, classes pooled: of things, or of everything where there is no thing."""
    things = is_thing[part.label]
    part = part[things] if things.any() else part
    weight = part.matched.sum() + 0.5 * (~part.matched).sum()
    return float(part.iou[part.matched].sum() / weight) if weight else math.nan
