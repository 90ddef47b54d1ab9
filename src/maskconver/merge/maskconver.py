"""The MaskConver rule: proposals compete for pixels, those that lose too many are dropped.

Source: `MaskConverPanopticGenerator` of the reference implementation; the papers describe it as MaskFormer's.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..core.config import PostprocessConfig
from ..core.proposals import Geometry, is_finite, non_finite_error
from ..core.resize import Taps
from ..errors import ConfigError
from .bounds import compete
from .reference import PlainCompetition, winners_at

# Pixels of rejected proposals × kept proposals up to which `fast` reassigns these pixels alone.
FEW = 1 << 18


class Competition(Protocol):
    """Who wins each pixel; the contract is `PlainCompetition`'s."""

    visible: NDArray[np.int64]

    def covers(self, share: float, asked: NDArray[np.bool_]) -> NDArray[np.bool_]: ...

    def paint(self, numbers: NDArray[np.int32]) -> NDArray[np.int32]: ...


def _competition(mask_logits: Any, algorithm: str) -> Callable[..., Competition]:
    if isinstance(mask_logits, np.ndarray):
        return compete if algorithm == "fast" else PlainCompetition
    from .tensor import TensorCompetition  # has torch, which made the tensor

    return TensorCompetition


def merge_maskconver(
    scores: NDArray[np.float32],
    labels: NDArray[np.int64],
    mask_logits: Any,
    *,
    is_thing: NDArray[np.bool_],
    geometry: Geometry | None,
    config: PostprocessConfig,
    output_size: tuple[int, int] | None = None,
    algorithm: str = "fast",
    non_finite: str = "error",
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """One label per pixel of the image: `merge_masks` with the taps of `output_taps`.

    Args:
        scores, labels, mask_logits, is_thing, config, algorithm, non_finite: as in `merge_masks`.
        geometry: how the network's input lies on the image; None gives the size of the masks.
        output_size: (height, width) of the result where it should be another one.

    Returns:
        H×W int32 segment ids, and (S,) int64, the proposal that gives each its label and score.
    """
    taps = output_taps(mask_logits.shape[-2:], geometry, output_size)
    return merge_masks(
        scores,
        labels,
        mask_logits,
        is_thing=is_thing,
        taps=taps,
        config=config,
        algorithm=algorithm,
        non_finite=non_finite,
    )


def merge_masks(
    scores: NDArray[np.float32],
    labels: NDArray[np.int64],
    mask_logits: Any,
    *,
    is_thing: NDArray[np.bool_],
    taps: tuple[Taps, Taps],
    config: PostprocessConfig,
    algorithm: str = "fast",
    non_finite: str = "error",
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """One label per pixel from the N proposals of one image.

    Proposals scored above `score_threshold` compete. Every pixel goes to the one with the largest mask
    probability × score^`class_exponent` (the first on a tie). A proposal is kept if it wins more
    pixels than the smallest area, and more than `overlap_threshold` of those where its own mask exceeds 0.5.
    The pixels of a rejected one become void, never the runner-up's. Every kept thing is a segment; kept stuff
    of one class is one segment. All comparisons are strict and in float32. `mask_threshold`, `nms_iou`,
    `reassign` and `class_exponent` are ours and off by default; see `PostprocessConfig`.

    Args:
        scores: (N,) float32 in any order.
        labels: (N,) int64 in 0…C-1, or -1: such a proposal wins pixels and they become void.
        mask_logits: (N, h, w) float32; a tensor is merged where it lies.
        is_thing: (C,) bool.
        taps: how the rows and the columns of the answer read the masks (`output_taps`).
        config: the thresholds.
        algorithm: `fast` or `reference`: by bounds, or every pixel of every mask; the same result.
        non_finite: `error`, or `drop` proposals with NaN or infinite values.

    Returns:
        H×W int32 segment ids, 1…S in order of score, 0 = void; and (S,) int64, the proposal that gives each
        segment its label and score (the best of its parts).

    Raises:
        MaskconverError: NaN or infinite scores, or logits of a proposal above the threshold (unless
            they are dropped); a label that does not exist.
    """
    _check(scores, labels, mask_logits, len(is_thing))
    rows, columns = taps
    competing = _competition(mask_logits, algorithm)
    candidates, masks = _candidates(scores, mask_logits, config, drop=non_finite == "drop")
    if len(candidates) and config.nms_iou < 1:
        distinct = _distinct(masks, labels[candidates], config.nms_iou)
        if len(distinct) < len(candidates):
            candidates, masks = candidates[distinct], masks[distinct]
    if not len(candidates) or not len(rows) or not len(columns):
        return np.zeros((len(rows), len(columns)), np.int32), candidates[:0]
    weights = scores[candidates]
    if config.class_exponent != 1:
        weights = weights ** np.float32(config.class_exponent)
    competition = competing(weights, masks, taps, config)
    smallest = config.smallest_area(len(rows), len(columns))
    kept = (competition.visible > smallest) & (labels[candidates] >= 0)
    kept = competition.covers(config.overlap_threshold, kept)
    numbers, first = _segments(labels[candidates], kept, is_thing)
    if not config.reassign or not kept.any() or kept.all():
        return competition.paint(np.append(numbers, np.int32(0))), candidates[first]
    rejected = int(competition.visible[~kept].sum())
    weights, own = weights[kept], np.append(numbers[kept], np.int32(0))
    if competing is compete and rejected * len(weights) <= FEW:
        ids = competition.paint(np.append(np.where(kept, numbers, np.int32(-1)), np.int32(0)))
        places = np.flatnonzero(ids == -1)
        ids.ravel()[places] = own[
            winners_at(places, weights, masks, np.flatnonzero(kept), taps=taps, config=config)
        ]
        return ids, candidates[first]
    return competing(weights, masks[kept], taps, config).paint(own), candidates[first]


def with_maskness(
    scores: NDArray[np.float32], mask_logits: Any, config: PostprocessConfig
) -> NDArray[np.float32]:
    """Scores times the mean probability of each mask where it is above 0.5, to the power `maskness`.

    SOLO's maskness (Wang et al., arXiv 1912.04488), there also a factor of the score. An empty mask gets a
    score of 0.

    Args:
        scores: (N,) float32; those at or below `score_threshold` stay as they are.
        mask_logits: (N, h, w) float32, NumPy or torch; NaN and infinite ones leave their score as it is.
        config: exponent and threshold.

    Returns:
        (N,) float32.
    """
    if not config.maskness:
        return scores
    scores = scores.copy()
    chosen = np.flatnonzero(scores > np.float32(config.score_threshold))
    sound = is_finite(mask_logits[: chosen.max(initial=-1) + 1])
    for n in chosen:  # one mask in memory at a time
        mask = mask_logits[n]
        if not (sound or is_finite(mask)):
            continue
        inside = mask[mask > 0]
        values = inside if isinstance(inside, np.ndarray) else inside.cpu().numpy()
        mean = (1 / (1 + np.exp(-values))).mean() if len(values) else np.float32(0)
        scores[n] *= mean ** np.float32(config.maskness)
    return scores


def _candidates(
    scores: NDArray[np.float32], mask_logits: Any, config: PostprocessConfig, drop: bool
) -> tuple[NDArray[np.int64], Any]:
    """The proposals above the threshold, best first, and their masks."""
    if not (drop or np.isfinite(scores).all()):
        raise non_finite_error("scores")
    chosen = np.flatnonzero((scores > np.float32(config.score_threshold)) & np.isfinite(scores))
    chosen = chosen[np.argsort(-scores[chosen], kind="stable")]
    # A network gives its proposals best first: then those above the threshold need no copy.
    leading = np.array_equal(chosen, np.arange(len(chosen)))
    masks = mask_logits[: len(chosen)] if leading else mask_logits[chosen]
    if isinstance(masks, np.ndarray):
        masks = np.ascontiguousarray(masks)
    if not is_finite(masks):
        if not drop:
            raise non_finite_error("mask logits")
        finite = np.flatnonzero([is_finite(mask) for mask in masks])
        chosen, masks = chosen[finite], masks[finite]
    return chosen, masks


def _distinct(masks: Any, labels: NDArray[np.int64], iou: float) -> NDArray[np.int64]:
    """Which of the masks, best first, overlap no better kept one of their label above `iou`; greedy."""
    above = masks > 0
    inside = (above if isinstance(above, np.ndarray) else above.cpu().numpy()).reshape(len(labels), -1)
    own, cell = np.divmod(np.flatnonzero(inside), inside.shape[1])
    areas = np.bincount(own, minlength=len(labels)).astype(np.float32)
    shared_cells = inside[:, np.flatnonzero(np.bincount(cell) > 1)].astype(np.float32)
    shared = shared_cells @ shared_cells.T
    union = areas[:, None] + areas - shared
    clash = (shared > np.float32(iou) * union) & (labels[:, None] == labels)
    kept = np.ones(len(labels), bool)
    for i in range(1, len(labels)):  # whether one is kept depends on which better ones were
        kept[i] = not (clash[i, :i] & kept[:i]).any()
    return np.flatnonzero(kept)


def output_taps(
    mask_size: tuple[int, int], geometry: Geometry | None, output_size: tuple[int, int] | None
) -> tuple[Taps, Taps]:
    """How the rows and columns of the answer read the masks.

    With a geometry the padding is cut off and the masks are brought back to the original image; output pixels
    beyond the image read a logit of 0. Without one the masks are resized to `output_size` as they are.

    Args:
        mask_size: (h, w) of the mask logits.
        geometry: how the network input lies on the image, or None.
        output_size: (height, width) of the answer; None is the image's own size, or that of the masks.
    """
    if geometry is None:
        height, width = output_size or mask_size
        return Taps.resize(mask_size[0], height), Taps.resize(mask_size[1], width)

    size = output_size or geometry.image_size
    rows, columns = (
        _axis(mask_size[i], geometry.canvas_size[i], geometry.scale[i], size[i], geometry.image_size[i])
        for i in (0, 1)
    )
    return rows, columns


@lru_cache(64)  # images often have one size, and for small ones this is a tenth of the work
def _axis(cells: int, canvas: int, scale: float, pixels: int, inside: int) -> Taps:
    """How `pixels` of the answer, of which `inside` are in the image, read an axis of so many mask cells."""
    # Length of the network input in original pixels. The reference rounds it up; the small constant keeps a
    # quotient that is whole but for rounding from becoming one more.
    length = np.ceil(canvas / scale - 1e-4)
    positions = np.arange(pixels)
    return Taps.at((positions + 0.5) * (cells / length) - 0.5, cells, inside=positions < inside)


def _segments(
    labels: NDArray[np.int64], kept: NDArray[np.bool_], is_thing: NDArray[np.bool_]
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """The segment number of every proposal (0 = void), and the first proposal of every segment."""
    rank = np.flatnonzero(kept)
    best_of_class = np.full(len(is_thing), len(labels))
    np.minimum.at(best_of_class, labels[rank], rank)
    group = np.where(is_thing[labels[rank]], rank, best_of_class[labels[rank]])
    first, segment = np.unique(group, return_inverse=True)
    number = np.zeros(len(labels), np.int32)
    number[rank] = segment + 1
    return number, first


def _check(scores: NDArray, labels: NDArray, mask_logits: NDArray, classes: int) -> None:
    n = len(scores)
    if scores.shape != (n,) or labels.shape != (n,) or mask_logits.ndim != 3 or len(mask_logits) != n:
        raise ConfigError(
            f"one image's proposals are scores (N,), labels (N,), masks (N, h, w); got {scores.shape}, "
            f"{labels.shape}, {mask_logits.shape}"
        )
    if n and not (labels.min() >= -1 and labels.max() < classes):
        raise ConfigError(
            f"a proposal has label {labels.max() if labels.max() >= classes else labels.min()}, "
            f"but there are {classes} categories (0…{classes - 1}, -1 = void)"
        )
