"""The competition for pixels by bounds, as compiled loops: the plain one's winners, with the extra "fast".

The idea is that of `fast.py`, with one level of cells: in a cell of the mask grid, candidates whose greatest
bid stays under another's least are out; pixels of cells with several left are computed. Sigmoids are
approximate here; the few pixels where that may matter are decided by the plain competition's operations.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from ..core.config import PostprocessConfig
from ..core.resize import Taps
from .blocks import Axis, BoundsDoNotPay, Values, bounds_error
from .reference import PlainCompetition, best_bids, interpolate, probabilities

SLACK = 1e-5  # relative error granted to the approximate sigmoid, many times what it has
TINY = np.float32(1e-30)  # bids below are taken to be in doubt: the approximate sigmoid ends at 1e-35
DOUBTS = 1 << 16  # logits of doubtful pixels read at a time

compiled = numba.njit(cache=True, nogil=True, error_model="numpy")
ZERO, HALF, ONE, INFINITE = (np.float32(value) for value in (0, 0.5, 1, np.inf))


def compete(
    scores: Values, logits: Values, taps: tuple[Taps, Taps], config: PostprocessConfig
) -> CompiledCompetition | PlainCompetition:
    """The winners of `PlainCompetition`, compiled where the answer is no smaller than the masks."""
    try:
        return CompiledCompetition(scores, logits, taps, config)
    except BoundsDoNotPay:
        return PlainCompetition(scores, logits, taps, config)


class CompiledCompetition(PlainCompetition):
    """The winners of `PlainCompetition`; arguments and attributes are its own.

    Raises:
        BoundsDoNotPay: the plain competition is the better way.
    """

    def __init__(
        self, scores: Values, logits: Values, taps: tuple[Taps, Taps], config: PostprocessConfig
    ) -> None:
        axes, n, hard = (Axis.of(taps[0]), Axis.of(taps[1])), len(scores), config.hard_sigmoid
        threshold = np.float32(config.mask_threshold)
        # Pixels beyond the image read a logit of 0, the same for all.
        half = probabilities(np.zeros((1, n), np.float32), hard)
        own, beyond = half[0] > 0.5, best_bids(half, scores, config)[0]
        self.winner = np.full((len(taps[0]), len(taps[1])), beyond, np.uint16)
        pixels = self.winner.size - len(axes[0].taps) * len(axes[1].taps)
        self.own_area = own * np.int64(pixels)
        visible = np.zeros(n + 2, np.int64)
        visible[beyond] = pixels
        error = bounds_error(axes, logits) + SLACK
        # Relative errors do not bound a probability that may be 0; and winners are numbers of 16 bits.
        if (hard and error > 2 * SLACK) or n > 65_000:
            raise BoundsDoNotPay
        exact = (threshold, _half(hard), np.float32(error), np.float32(0 if hard else SLACK), hard)
        rows, columns = _cells(axes[0]), _cells(axes[1])
        _settle(scores, logits, rows, columns, exact, self.winner, visible, self.own_area)
        if visible[-1]:
            self._decide(scores, logits, taps, config, visible)
        self.visible = visible[:n]

    def paint(self, numbers: NDArray[np.int32]) -> NDArray[np.int32]:
        """As `PlainCompetition.paint`."""
        ids = np.empty(self.winner.shape, np.int32)
        _paint(numbers, self.winner.ravel(), ids.ravel())
        return ids

    def _decide(
        self, scores: Values, logits: Values, taps: Any, config: PostprocessConfig, visible: NDArray
    ) -> None:
        """The doubtful pixels."""
        places = np.flatnonzero(self.winner == len(scores) + 1)
        size = DOUBTS // len(scores) + 1
        for part in (places[i : i + size] for i in range(0, len(places), size)):
            y, x = np.divmod(part, self.winner.shape[1])
            (top, bottom, down), (left, right, across) = (
                (t.low[i], t.high[i], t.weight[i]) for t, i in zip(taps, (y, x))
            )
            low, high = (interpolate(logits[:, top, c], logits[:, bottom, c], down) for c in (left, right))
            masks = probabilities(interpolate(low, high, across).T.copy(), config.hard_sigmoid)
            best = best_bids(masks, scores, config)
            self.winner.ravel()[part] = best
            visible += np.bincount(best, minlength=len(visible))


def _cells(axis: Axis) -> tuple[NDArray, ...]:
    """(cells + 1,) the mask rows that cells lie between, their edges in pixels, and the pixels' weights."""
    rows = np.arange(axis.source.start, axis.source.stop)
    return np.pad(rows, 1, "edge"), axis.edges, axis.taps.weight


@cache
def _half(hard: bool) -> np.float32:
    """The greatest logit whose probability does not exceed 0.5; rounding moves it from 0."""
    low, high = np.float32(-1), np.float32(1)
    while np.nextafter(low, high) < high:
        middle = HALF * (low + high)
        low, high = (low, middle) if probabilities(np.array([middle]), hard)[0] > 0.5 else (middle, high)
    return low


@compiled
def _probability(x, hard):  # type: ignore[no-untyped-def]
    """`probabilities` of one logit, the hard form to the bit; the other clipped at ±80."""
    if hard:
        x += np.float32(3)
        x = ZERO if x < ZERO else x
        return (x if x < np.float32(6) else np.float32(6)) * np.float32(0.16667)
    x = x if x < np.float32(80) else np.float32(80)
    x = x if x > np.float32(-80) else np.float32(-80)
    # exp(-x) = 2^n exp(r) with |r| < 0.35: a polynomial, and n written into the bits of the exponent.
    n = np.floor(HALF - x * np.float32(1.44269504))
    r = -x - n * np.float32(0.693359375) + n * np.float32(2.12194440e-4)
    e = np.float32(1 / 720)
    e = e * r + np.float32(1 / 120)
    e = e * r + np.float32(1 / 24)
    e = e * r + np.float32(1 / 6)
    e = e * r + HALF
    e = (e * r + ONE) * r + ONE
    return ONE / (ONE + e * np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32))


@compiled
def _smaller(a, b):  # type: ignore[no-untyped-def]
    return a if a < b else b


@compiled
def _larger(a, b):  # type: ignore[no-untyped-def]
    return a if a > b else b


@compiled
def _inside(corners, rows, columns, i, j, half):  # type: ignore[no-untyped-def]
    """How many pixels of cell (i, j) have a logit above `half`."""
    a, b, down_a, down_b = corners
    y_edge, y_weight, x_edge, x_weight = rows[1], rows[2], columns[1], columns[2]
    start, end, total = x_edge[j], x_edge[j + 1], 0
    for y in range(y_edge[i], y_edge[i + 1]):
        left = a + down_a * y_weight[y]
        across = (b + down_b * y_weight[y]) - left
        # Along a row the logits only rise, or only fall.
        ends = (left + across * x_weight[start] > half) + (left + across * x_weight[end - 1] > half)
        if ends == 2:
            total += end - start
        elif ends == 1:
            for x in range(start, end):
                total += left + across * x_weight[x] > half
    return total


@compiled
def _corners(mask, rows, columns, i, j):  # type: ignore[no-untyped-def]
    """The upper logits at the corners of cell (i, j) of one mask, and the steps down to the lower ones."""
    above, below, left, right = mask[rows[0][i]], mask[rows[0][i + 1]], columns[0][j], columns[0][j + 1]
    return above[left], above[right], below[left] - above[left], below[right] - above[right]


@compiled
def _corner_bids(scores, logits, y, x_corner, hard, bids):  # type: ignore[no-untyped-def]
    """Fills (n, columns + 1) float32 with the bids at the corners that lie in row y of the masks."""
    for k in range(len(scores)):
        for j in range(len(x_corner)):
            bids[k, j] = logits[k, y, x_corner[j]]
        for j in range(len(x_corner)):
            bids[k, j] = scores[k] * _probability(bids[k, j], hard)


@compiled
def _bid(corners, down, across, score, k, exact, best, second, first):  # type: ignore[no-untyped-def]
    """One candidate's bids for the pixels of a cell: keeps the best two so far, and whose the best is."""
    threshold, _, _, slack, hard = exact
    under, over = threshold * (ONE - slack), threshold * (ONE + slack)
    a, b, down_a, down_b = corners
    for i in range(len(best)):
        left, right = a + down_a * down[i], b + down_b * down[i]
        p, top = _probability(left + (right - left) * across[i], hard), best[i]
        bid = p * score if p > threshold else ZERO
        loser = _smaller(bid, top)
        loser = INFINITE if (under < p) & (p < over) else loser  # whether it bids at all is in doubt
        second[i] = _larger(loser, second[i])
        first[i] = k if bid > top else first[i]
        best[i] = _larger(bid, top)


@compiled
def _settle(scores, logits, rows, columns, exact, winner, visible, own):  # type: ignore[no-untyped-def]
    """Fills in who wins each pixel, n for nobody and n + 1 where it is in doubt, and counts.

    Args:
        scores, logits: (n,) and (n, h, w) float32.
        rows, columns: what `_cells` gives.
        exact: the pixel threshold; the greatest logit of a probability up to 0.5; relative errors of bounds
            and of bids; whether the sigmoid is the hard one.
        winner: H×W uint16.
        visible, own: (n + 2,) and (n,) int64, counts of pixels won and of those where a mask exceeds 0.5.
    """
    threshold, half, error, slack, hard = exact
    y_edge, x_edge = rows[1], columns[1]
    n, cells, tiny = len(scores), len(x_edge) - 1, ZERO if hard else TINY
    bids = np.empty((2, n, cells + 1), np.float32)  # of the corners above and below, in turn
    _corner_bids(scores, logits, rows[0][0], columns[0], hard, bids[0])
    low, high, floor = (
        np.empty(cells, np.float32),
        np.empty((n, cells), np.float32),
        np.empty(cells, np.float32),
    )
    candidate, count = np.empty((cells, n), np.int32), np.empty(cells, np.int64)
    largest = np.diff(y_edge).max() * np.diff(x_edge).max()
    down, across = np.empty(largest, np.float32), np.empty(largest, np.float32)
    best, second = np.empty(largest, np.float32), np.empty(largest, np.float32)
    first = np.empty(largest, np.int32)
    for i in range(len(y_edge) - 1):
        top, bottom, upper, lower = y_edge[i], y_edge[i + 1], bids[i % 2], bids[1 - i % 2]
        _corner_bids(scores, logits, rows[0][i + 1], columns[0], hard, lower)
        if top == bottom:
            continue
        floor[:], count[:] = 0, 0
        for k in range(n):
            above, below, highest, score = upper[k], lower[k], high[k], scores[k]
            claim = threshold * score * (ONE + error)
            wholly, perhaps, some = HALF * score * (ONE + error), HALF * score * (ONE - error), 0
            for j in range(cells):
                least = _smaller(_smaller(above[j], above[j + 1]), _smaller(below[j], below[j + 1]))
                most = _larger(_larger(above[j], above[j + 1]), _larger(below[j], below[j + 1]))
                low[j], highest[j] = least, most
                floor[j] = _larger(floor[j], least if least >= claim else ZERO)
                some += most > perhaps
            if some:
                for j in range(cells):
                    if low[j] > wholly:
                        own[k] += (bottom - top) * (x_edge[j + 1] - x_edge[j])
                    elif highest[j] > perhaps and x_edge[j] < x_edge[j + 1]:
                        corners = _corners(logits[k], rows, columns, i, j)
                        own[k] += _inside(corners, rows, columns, i, j, half)
        for j in range(cells):
            floor[j] = floor[j] * (ONE - error - error) if floor[j] > tiny else ZERO
        for k in range(n):
            highest, claim, some = high[k], threshold * scores[k] * (ONE - error), 0
            for j in range(cells):
                some += (highest[j] >= floor[j]) & (highest[j] >= claim)
            if some:
                for j in range(cells):
                    if highest[j] >= floor[j] and highest[j] >= claim:
                        candidate[j, count[j]] = k
                        count[j] += 1
        for j in range(cells):
            sole = candidate[j, 0] if count[j] else n
            for x in range(x_edge[j], x_edge[j + 1]):
                winner[top, x] = sole
        width = x_edge[cells]
        for y in range(top + 1, bottom):
            winner[y, :width] = winner[top, :width]
        for j in range(cells):
            left, right = x_edge[j], x_edge[j + 1]
            size = (bottom - top) * (right - left)
            if count[j] < 2 and (threshold == 0 or floor[j] > 0 or count[j] == 0):
                visible[winner[top, left] if size else n] += size
                continue
            x = 0
            for y in range(top, bottom):
                for c in range(left, right):
                    down[x], across[x] = rows[2][y], columns[2][c]
                    x += 1
            best[:size], second[:size] = 0, 0
            first[:size] = n if threshold > 0 else candidate[j, 0]
            for m in range(count[j]):
                k = candidate[j, m]
                corners = _corners(logits[k], rows, columns, i, j)
                _bid(corners, down, across, scores[k], k, exact, best[:size], second, first)
            for x in range(size):
                bound = (best[x] >= tiny) | ((threshold > 0) & (best[x] == 0))
                first[x] = first[x] if bound & (second[x] <= best[x] * (ONE - slack)) else n + 1
            x = 0
            for y in range(top, bottom):
                for c in range(left, right):
                    winner[y, c] = first[x]
                    visible[first[x]] += 1
                    x += 1


@compiled
def _paint(numbers, winner, out):  # type: ignore[no-untyped-def]
    for i in range(len(winner)):
        out[i] = numbers[winner[i]]
