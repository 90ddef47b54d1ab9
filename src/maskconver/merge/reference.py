"""The MaskConver post-processing, plain: the definition that faster versions are compared with.

Source: `MaskConverPanopticGenerator` of the reference implementation; the papers describe it as MaskFormer's.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..config import MergeConfig
from ..errors import ConfigError, MaskconverError
from ..proposals import Geometry
from ..resize import Taps

# Masks are resized a band of rows at a time, of about this many float32 values (1 MB, to stay in the caches).
BAND_VALUES = 1 << 18


def merge_masks(
    scores: NDArray[np.float32],
    labels: NDArray[np.int64],
    mask_logits: NDArray[np.float32],
    is_thing: NDArray[np.bool_],
    taps: tuple[Taps, Taps],
    config: MergeConfig,
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """One label a pixel from the N proposals of one image.

    Proposals scored above `object_threshold` compete. Every pixel goes to the one with the largest mask
    probability × score (the first on a tie). A proposal is kept if it wins more
    pixels than the smallest area, and more than `overlap_threshold` of those where its own mask exceeds 0.5.
    The pixels of a rejected one become void, never the runner-up's. Every kept thing is a segment; kept stuff
    of one class is one segment. All comparisons are strict and in float32. `pixel_threshold` and `nms_iou`
    are ours and off by default; see `MergeConfig`.

    Args:
        scores: (N,) float32 in any order.
        labels: (N,) int64 in 0…C-1, or -1: such a proposal wins pixels and they become void.
        mask_logits: (N, h, w) float32.
        is_thing: (C,) bool.
        taps: how the rows and the columns of the answer read the masks (`output_taps`).
        config: the thresholds.

    Returns:
        H×W int32 segment ids, 1…S in order of score, 0 = void; and (S,) int64, the proposal that gives each
        segment its label and score (the best of its parts).

    Raises:
        MaskconverError: NaN or infinite scores or logits, a label that does not exist.
    """
    _check(scores, labels, mask_logits, len(is_thing))
    rows, columns = taps
    candidates = np.flatnonzero(scores > np.float32(config.object_threshold))
    candidates = candidates[np.argsort(-scores[candidates], kind="stable")]
    if not len(candidates):
        return np.zeros((len(rows), len(columns)), np.int32), candidates
    if config.nms_iou < 1:
        candidates = candidates[_distinct(mask_logits[candidates], labels[candidates], config.nms_iou)]
    winner, own_area = _compete(candidates, scores, mask_logits, taps, config)
    visible = np.bincount(winner.ravel(), minlength=len(candidates) + 1)[:-1]
    # Rounded so that a fraction written as 256 / 640² means 256 pixels and not 255.99….
    smallest = round(config.min_area * max(winner.shape) ** 2, 6)
    overlap = np.float32(config.overlap_threshold) * own_area.astype(np.float32)
    kept = (visible > smallest) & (own_area > 0) & (visible.astype(np.float32) > overlap)
    kept &= labels[candidates] >= 0
    if config.reassign and kept.any() and not kept.all():
        candidates = candidates[kept]
        winner, _ = _compete(candidates, scores, mask_logits, taps, config)
        kept = np.ones(len(candidates), bool)
    number, first = _segments(labels[candidates], kept, is_thing)
    return np.append(number, np.int32(0))[winner], candidates[first]


def _compete(
    candidates: NDArray[np.int64],
    scores: NDArray[np.float32],
    mask_logits: NDArray[np.float32],
    taps: tuple[Taps, Taps],
    config: MergeConfig,
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Who of n candidates wins each pixel, H×W int32 in 0…n, n for nobody; and (n,) pixels above 0.5."""
    rows, columns = taps
    n, weights = len(candidates), scores[candidates]
    winner = np.empty((len(rows), len(columns)), np.int32)
    own_area = np.zeros(n, np.int64)
    band = max(BAND_VALUES // (len(columns) * n), 1)
    for top in range(0, len(rows), band):  # bands bound the memory: N×H×W at full size never exists
        part = slice(top, top + band)
        masks = _probabilities(_read(mask_logits, candidates, rows, part, columns), config.hard_sigmoid)
        own_area += (masks > 0.5).reshape(-1, n).sum(0, dtype=np.int32)
        if config.pixel_threshold:
            masks[masks <= np.float32(config.pixel_threshold)] = 0
        masks *= weights
        best = masks.argmax(-1)
        if config.pixel_threshold:
            best[masks.max(-1) == 0] = n
        winner[part] = best
    return winner, own_area


def _distinct(mask_logits: NDArray[np.float32], labels: NDArray[np.int64], iou: float) -> NDArray[np.int64]:
    """Which of the masks, best first, overlap no better kept one of their label above `iou`; greedy."""
    masks = (mask_logits > 0).reshape(len(labels), -1).astype(np.float32)
    shared = masks @ masks.T
    areas = np.diagonal(shared)
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
        geometry: how the network's canvas lies on the image, or None.
        output_size: (height, width) of the answer; None is the image's own size, or that of the masks.
    """
    if geometry is None:
        rows, columns = output_size or mask_size
        return Taps.resize(mask_size[0], rows), Taps.resize(mask_size[1], columns)

    def axis(i: int) -> Taps:
        scale = geometry.scale[i]
        # Length of the canvas in original pixels. The reference rounds it up; the small constant keeps a
        # quotient that is whole but for rounding from becoming one more.
        length = np.ceil(geometry.canvas_size[i] / scale - 1e-4)
        pixels = np.arange(output_size[i] if output_size else geometry.image_size[i])
        positions = (pixels + geometry.offset[i] / scale + 0.5) * (mask_size[i] / length) - 0.5
        return Taps.at(positions, mask_size[i], inside=pixels < geometry.image_size[i])

    return axis(0), axis(1)


def _read(
    logits: NDArray[np.float32], candidates: NDArray[np.int64], rows: Taps, part: slice, columns: Taps
) -> NDArray[np.float32]:
    """A band of the resized logits, rows×W×N: the candidates of a pixel lie side by side."""
    low, high = rows.low[part], rows.high[part]
    first = low.min()
    source = np.ascontiguousarray(logits[candidates, first : high.max() + 1].transpose(1, 2, 0))
    band = _lerp(source[low - first], source[high - first], rows.weight[part, None, None])
    band = _lerp(band[:, columns.low], band[:, columns.high], columns.weight[:, None])
    if not rows.inside[part].all():
        band[~rows.inside[part]] = 0
    if not columns.inside.all():
        band[:, ~columns.inside] = 0
    return band


def _lerp(low: NDArray, high: NDArray, weight: NDArray) -> NDArray:
    """`low + weight · (high - low)`, in the memory of its arguments."""
    high -= low
    high *= weight
    low += high
    return low


def _probabilities(logits: NDArray[np.float32], hard: bool) -> NDArray[np.float32]:
    """Sigmoid, or `relu6(x + 3) · 0.16667`, in place."""
    if hard:
        logits += np.float32(3)
        np.clip(logits, 0, 6, out=logits)
        logits *= np.float32(0.16667)
        return logits
    np.negative(logits, out=logits)
    with np.errstate(over="ignore"):  # exp overflows to infinity below -88, where the sigmoid is 0
        np.exp(logits, out=logits)
    logits += 1
    return np.reciprocal(logits, out=logits)


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
    for name, values in (("scores", scores), ("mask logits", mask_logits)):
        if not np.isfinite(values).all():
            raise MaskconverError(
                f"the network's {name} hold NaN or infinite values; "
                "run it in float32, or take weights that did not diverge"
            )
    if n and not (labels.min() >= -1 and labels.max() < classes):
        raise ConfigError(
            f"a proposal has label {labels.max() if labels.max() >= classes else labels.min()}, "
            f"but there are {classes} categories (0…{classes - 1}, -1 = void)"
        )
