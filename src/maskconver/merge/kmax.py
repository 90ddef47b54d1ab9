"""The kMaX-DeepLab rule: masks, best first, take the free ones of the pixels they are sure of.

Source: arXiv 2207.04044, and `inference` of the post-processor of google-research/deeplab2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..core.config import PostprocessConfig
from ..core.proposals import Geometry, non_finite_error
from ..core.resize import Taps, lerp
from ..errors import ConfigError
from .reference import probabilities

BAND_VALUES = 1 << 21  # of all masks at the size of the answer, at a time; bounds the memory


def merge_kmax(
    scores: NDArray[np.float32],
    labels: NDArray[np.int64],
    mask_logits: NDArray[np.float32],
    *,
    is_thing: NDArray[np.bool_],
    geometry: Geometry | None,
    config: PostprocessConfig,
    output_size: tuple[int, int] | None = None,
    algorithm: str = "fast",
    non_finite: str = "error",
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """One label per pixel from the N proposals of one image.

    A mask is where its probability (a softmax over all proposals) exceeds `mask_threshold`; its score is the
    mean of its probability there. In the order of class score^a · mask score^b, proposals whose class score
    exceeds the threshold of their kind take those pixels of their mask that are free, if these are more than
    `overlap_threshold` of it. Stuff of one class is one segment; pixels nobody takes are void.

    Args:
        scores: (N,) float32 class scores in any order.
        labels: (N,) int64 in 0…C-1, or -1: such a proposal takes nothing.
        mask_logits: (N, h, w) float32.
        is_thing: (C,) bool.
        geometry: how the network input lies on the image; None gives the size of the masks.
        config: the thresholds.
        output_size: (height, width) of the answer where it should be another one; without a geometry the
            masks are resized to it, with one the image's answer is cut, or filled up with void.
        algorithm: makes no difference; this rule has one.
        non_finite: `error`, or `drop` proposals with NaN or infinite values.

    Returns:
        H×W int32 segment ids, 1…S in the order in which they were opened, 0 = void; and (S,) int64, the
        proposal that opened each.

    Raises:
        MaskconverError: NaN or infinite values (unless their proposals are dropped).
        ConfigError: labels that do not exist.
    """
    kept = np.arange(len(scores))
    finite = np.isfinite(scores) & np.isfinite(mask_logits).all((1, 2))
    if not finite.all():
        if non_finite != "drop":
            raise non_finite_error("scores or mask logits")
        kept = kept[finite]
        scores, labels, mask_logits = scores[finite], labels[finite], mask_logits[finite]
    if len(labels) and not (labels.min() >= -1 and labels.max() < len(is_thing)):
        raise ConfigError(f"labels up to {labels.max()}, but {len(is_thing)} categories (-1 is void)")
    ids, first = _paint(
        scores, labels, mask_logits, is_thing, resize_steps(mask_logits, geometry, output_size), config
    )
    if geometry is not None and output_size is not None:
        canvas = np.zeros(output_size, np.int32)
        h, w = (min(a, b) for a, b in zip(ids.shape, output_size))
        canvas[:h, :w] = ids[:h, :w]
        ids, first = _larger_than(0, canvas, first)
    return ids, kept[first]


def _paint(
    scores: NDArray[np.float32],
    labels: NDArray[np.int64],
    mask_logits: NDArray[np.float32],
    is_thing: NDArray[np.bool_],
    steps: tuple[list[Taps], list[Taps]],
    config: PostprocessConfig,
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    stuff_threshold = config.score_threshold if config.stuff_threshold is None else config.stuff_threshold
    things = is_thing[labels] & (labels >= 0)
    thresholds = np.where(things, config.score_threshold, stuff_threshold).astype(np.float32)
    candidates = np.flatnonzero((scores > thresholds) & (labels >= 0))
    bands, areas, mask_scores = _masks(mask_logits, candidates, steps, config)
    rank = scores[candidates] ** config.class_exponent * mask_scores**config.mask_exponent
    ids = np.zeros((len(steps[0][1]), len(steps[1][1])), np.int32)
    opened: list[int] = []
    segment_of: dict[int, int] = {}
    for i in np.argsort(-rank, kind="stable"):  # what is free depends on everyone before
        parts = [(ids[band.rows], mask) for band in bands if (mask := band.mask(i)) is not None]
        free = [mask & (part == 0) for part, mask in parts]
        if not sum(f.sum() for f in free) > config.overlap_threshold * areas[i]:
            continue
        query = int(candidates[i])
        label = int(labels[query])
        if is_thing[label] or label not in segment_of:
            opened.append(query)
            segment_of[label] = len(opened)
        for (part, _), f in zip(parts, free):
            part[f] = segment_of[label]
    bands.clear()  # as large as the answer, which is copied next
    segments = np.array(opened, np.int64)
    height, width = ids.shape
    smallest = [config.smallest_area(height, width, stuff=stuff) for stuff in (True, False)]
    return _larger_than(np.array(smallest)[is_thing[labels[segments]].astype(int)], ids, segments)


@dataclass(slots=True)
class _Band:
    """Some rows of the answer, and the masks of the k candidates that reach there, eight pixels a byte."""

    rows: slice
    width: int
    candidate: NDArray[np.int64]  # (k,) ascending
    packed: NDArray[np.uint8]  # (k, rows, bytes)

    def mask(self, candidate: int) -> NDArray[np.bool_] | None:
        """The candidate's, rows×W; None where it does not reach."""
        at = int(np.searchsorted(self.candidate, candidate))
        if candidate not in self.candidate[at : at + 1]:
            return None
        return np.unpackbits(self.packed[at], axis=1, count=self.width).view(bool)


def _masks(
    logits: NDArray[np.float32],
    candidates: NDArray[np.int64],
    steps: tuple[list[Taps], list[Taps]],
    config: PostprocessConfig,
) -> tuple[list[_Band], NDArray[np.int64], NDArray[np.float64]]:
    """Masks of the candidates at the size of the answer, their areas, and the mean probability of each."""
    (canvas_rows, image_rows), (canvas_columns, image_columns) = steps
    height, width = len(image_rows), len(image_columns)
    bands, areas, total = [], np.zeros(len(candidates), np.int64), np.zeros(len(candidates))
    band = max(BAND_VALUES // max(len(logits) * width, 1), 1)
    for top in range(0, height if len(candidates) else 0, band):
        part = image_rows[top : top + band]
        start, stop = part.low.min(), part.high.max() + 1
        values = lerp(logits, canvas_rows[start:stop], 1)
        values = lerp(lerp(values, canvas_columns, 2), image_columns, 2)
        values = lerp(values, Taps(part.low - start, part.high - start, part.weight, part.inside), 1)
        probability = mask_probabilities(values, config, candidates)
        sure = probability > np.float32(config.mask_threshold)
        area = sure.sum((1, 2))
        reach = np.flatnonzero(area)
        bands.append(_Band(slice(top, top + band), width, reach, np.packbits(sure[reach], 2)))
        areas += area
        total += np.where(sure, probability, 0).sum((1, 2), dtype=np.float64)
    return bands, areas, total / np.maximum(areas, 1)


def mask_probabilities(
    logits: NDArray[np.float32], config: PostprocessConfig, chosen: NDArray[np.int64] | slice = slice(None)
) -> NDArray[np.float32]:
    """Mask logits N×h×w to the probabilities of the chosen masks: a softmax over all, or each by itself."""
    if config.rule == "kmax" and config.mask_activation == "softmax":
        values = np.exp(logits - logits.max(0, initial=-np.inf))
        return values[chosen] / values.sum(0)
    if config.rule == "maskconver" and config.hard_sigmoid:
        return probabilities(np.array(logits[chosen]), True)
    probability = np.float32(1) / (np.float32(1) + np.exp(-logits[chosen]))
    return probability


def resize_steps(
    logits: NDArray[np.float32], geometry: Geometry | None, output_size: tuple[int, int] | None
) -> tuple[list[Taps], list[Taps]]:
    """The two resizes of rows and of columns: masks to the padded canvas, and its image to the answer.

    Corners are aligned in both where the network input has an odd width, as in the network.
    """
    sizes = logits.shape[1:]
    canvas = geometry.canvas_size if geometry else output_size or sizes
    align = canvas[1] % 2 == 1

    def axis(i: int) -> list[Taps]:
        if geometry is None:
            return [_taps(sizes[i], canvas[i], align), _taps(canvas[i], canvas[i], align)]
        image = geometry.image_size[i]
        valid = min(max(round(image * geometry.scale[i]), 1), canvas[i])
        return [_taps(sizes[i], canvas[i], align), _taps(valid, image, align)]

    return axis(0), axis(1)


def _taps(length: int, target: int, align: bool) -> Taps:
    if not align:
        return Taps.resize(length, target)
    step = np.float32((length - 1) / max(target - 1, 1))
    return Taps.at(np.arange(target, dtype=np.float32) * step, length)


def _larger_than(
    area: float | NDArray[np.float64], ids: NDArray[np.int32], first: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Segments of so many pixels or fewer become void; the others are numbered anew."""
    areas = np.zeros(len(first) + 1, np.int64)
    for rows in np.array_split(ids, 16):  # bincount copies what it counts, twice as large
        areas += np.bincount(rows.ravel(), minlength=len(areas))
    kept = areas[1:] > area
    numbers = np.concatenate([[0], np.where(kept, np.cumsum(kept), 0)]).astype(np.int32)
    return numbers[ids], first[kept]
