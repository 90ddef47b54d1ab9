"""The competition for pixels, plain: the definition that faster versions are compared with.

Source: `MaskConverPanopticGenerator` of the reference implementation; the papers describe it as MaskFormer's.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..core.config import PostprocessConfig
from ..core.resize import Taps, interpolate

# Masks are resized a band of rows at a time, of about this many float32 values (1 MB, to stay in the caches).
BAND_VALUES = 1 << 18
SIXTH = 0.16667  # of the hard sigmoid, rounded as in the reference implementation


class PlainCompetition:
    """Every pixel computed for every candidate; the contract of all competitions.

    A pixel goes to the candidate with the largest mask probability × score, the first on a tie, or to nobody
    where none exceeds the pixel threshold.

    Args:
        scores: (n,) float32 of the candidates, highest first.
        logits: (n, h, w) float32 masks.
        taps: how the rows and the columns of the answer read the masks.
        config: gives `mask_threshold` and `hard_sigmoid`.

    Attributes:
        visible: (n,) int64 pixels won by each.
    """

    def __init__(
        self,
        scores: NDArray[np.float32],
        logits: NDArray[np.float32],
        taps: tuple[Taps, Taps],
        config: PostprocessConfig,
    ) -> None:
        rows, columns = taps
        n = len(scores)
        self.winner = np.empty((len(rows), len(columns)), np.int32)
        self.own_area = np.zeros(n, np.int64)
        band = max(BAND_VALUES // (len(columns) * n), 1)
        for top in range(0, len(rows), band):  # bands bound the memory: n×H×W at full size never exists
            part = slice(top, top + band)
            masks = probabilities(_read(logits, rows, part, columns), config.hard_sigmoid)
            self.own_area += (masks > 0.5).reshape(-1, n).sum(0, dtype=np.int32)
            self.winner[part] = best_bids(masks, scores, config)
        self.visible = np.bincount(self.winner.ravel(), minlength=n + 1)[:-1]

    def covers(self, share: float, asked: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which of the asked win more than this share of the pixels where their own mask exceeds 0.5."""
        return asked & wins_share(self.visible, self.own_area, share)

    def paint(self, numbers: NDArray[np.int32]) -> NDArray[np.int32]:
        """H×W int32: for every pixel the number of its winner; the last of the n + 1 where there is none."""
        return numbers[self.winner]


def winners_at(
    places: NDArray[np.int64],
    scores: NDArray[np.float32],
    logits: NDArray[np.float32],
    which: NDArray[np.int64],
    *,
    taps: tuple[Taps, Taps],
    config: PostprocessConfig,
) -> NDArray[np.int64]:
    """Who of the n wins each of some pixels (P,), counted row by row, n where nobody does.

    The winners of `PlainCompetition`, whose arguments the others are. `which`: (n,) the masks that compete.
    """
    rows, columns = taps
    y, x = np.divmod(places, len(columns))
    above, below, weight = rows.low[y][:, None], rows.high[y][:, None], rows.weight[y, None]
    low, high = (
        interpolate(logits[which, above, at[:, None]], logits[which, below, at[:, None]], weight)
        for at in (columns.low[x], columns.high[x])
    )
    values = interpolate(low, high, columns.weight[x, None])
    values[~(rows.inside[y] & columns.inside[x])] = 0
    return best_bids(probabilities(values, config.hard_sigmoid), scores, config)


def best_bids(
    masks: NDArray[np.float32], scores: NDArray[np.float32], config: PostprocessConfig
) -> NDArray[np.int64]:
    """Who of the n wins each pixel, n where nobody does; of probabilities (…, n), overwritten by the bids."""
    if config.mask_threshold:
        masks[masks <= np.float32(config.mask_threshold)] = 0
    masks *= scores
    best = masks.argmax(-1)
    if config.mask_threshold:
        best[masks.max(-1) == 0] = len(scores)
    return best


def wins_share(visible: NDArray[np.int64], own_area: NDArray[np.int64], share: float) -> NDArray[np.bool_]:
    """The overlap test: more than `share` of an area that is not empty; strict and in float32."""
    required = np.float32(share) * own_area.astype(np.float32)
    return (own_area > 0) & (visible.astype(np.float32) > required)


def probabilities(logits: NDArray[np.float32], hard: bool) -> NDArray[np.float32]:
    """Sigmoid, or `relu6(x + 3) · SIXTH`, in place."""
    if hard:
        logits += np.float32(3)
        np.clip(logits, 0, 6, out=logits)
        logits *= np.float32(SIXTH)
        return logits
    np.negative(logits, out=logits)
    with np.errstate(over="ignore"):  # exp overflows to infinity below -88, where the sigmoid is 0
        np.exp(logits, out=logits)
    logits += 1
    return np.reciprocal(logits, out=logits)


def _read(logits: NDArray[np.float32], rows: Taps, part: slice, columns: Taps) -> NDArray[np.float32]:
    """A band of the resized logits, rows×W×n: the candidates of a pixel lie side by side."""
    low, high = rows.low[part], rows.high[part]
    first = low.min()
    source = np.ascontiguousarray(logits[:, first : high.max() + 1].transpose(1, 2, 0))
    band = interpolate(source[low - first], source[high - first], rows.weight[part, None, None])
    band = interpolate(band[:, columns.low], band[:, columns.high], columns.weight[:, None])
    if not rows.inside[part].all():
        band[~rows.inside[part]] = 0
    if not columns.inside.all():
        band[:, ~columns.inside] = 0
    return band
