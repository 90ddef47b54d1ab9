"""The competition for pixels by bounds: the winners of the plain one, most pixels never computed.

Bilinear interpolation is convex: within a cell of the mask grid every logit lies between the least and the
greatest of the cell's corners, and the bid for a pixel, probability × score, grows with the logit. A
candidate whose greatest bid in a block stays under another's least wins no pixel there. Blocks are first
whole cells; those still contested are split, and bounded anew by their own corner pixels, down to a few
pixels; what is left is interpolated pixel by pixel with the very operations of the plain competition.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..core.config import PostprocessConfig
from ..core.resize import Taps
from .blocks import Axis, Blocks, BoundsDoNotPay, Flags, Indices, Values, bounds_error, pixels, whole
from .reference import SIXTH, PlainCompetition, probabilities, wins_share

TILE = 4  # pixels a side that blocks are split down to
SMALL = 6  # pixels a side that are not worth splitting
CHUNK_VALUES = 1 << 16  # bounds of cells held at a time
CROWDED = 0.5  # share of all pairs of cell and candidate still open above which bounds do not pay


def compete(
    scores: Values, logits: Values, taps: tuple[Taps, Taps], config: PostprocessConfig
) -> BoundedCompetition | PlainCompetition:
    """The winners of `PlainCompetition`, by bounds where they pay; arguments are its own."""
    try:
        return BoundedCompetition(scores, logits, taps, config)
    except BoundsDoNotPay:
        return PlainCompetition(scores, logits, taps, config)


class BoundedCompetition:
    """The winners of `PlainCompetition`, found by bounds; arguments and attributes are its own.

    Raises:
        BoundsDoNotPay: the plain competition is the better way.
    """

    def __init__(
        self, scores: Values, logits: Values, taps: tuple[Taps, Taps], config: PostprocessConfig
    ) -> None:
        self.y, self.x = Axis.of(taps[0]), Axis.of(taps[1])
        self.shape = (len(taps[0]), len(taps[1]))
        self.scores, self.logits, self.config, self.nobody = scores, logits, config, len(scores)
        # How far rounding may lift an interpolated probability above its bound: relative, and absolute.
        error = bounds_error((self.y, self.x), logits)
        self.relative, self.absolute = np.float32(error), np.float32(error if config.hard_sigmoid else 0)
        self.wholly: _Dense | _Sparse
        self.partly: _Dense | _Sparse
        self.painted: list[tuple[Indices, Indices, NDArray[np.integer]]] = []
        won = np.zeros(self.nobody + 1, np.int64)
        self.cells, contested = self._settle_cells(won)
        self._settle(contested, won)
        # Pixels beyond the image read a logit of 0, the same for all: the first candidate has the best score.
        half = probabilities(np.zeros(1, np.float32), config.hard_sigmoid)
        beyond = self.shape[0] * self.shape[1] - len(self.y.taps) * len(self.x.taps)
        self.winner_beyond = self.nobody if half[0] <= np.float32(config.mask_threshold) else 0
        self.own_beyond = beyond if half[0] > 0.5 else 0
        won[self.winner_beyond] += beyond
        self.visible = won[:-1]

    def covers(self, share: float, asked: Flags) -> Flags:
        """As `PlainCompetition.covers`; own areas are computed only where bounds leave the test open."""

        def doubtful(most: Indices) -> Flags:
            # The test fails for an area of 0, then holds, then fails again as the area grows.
            differ = wins_share(self.visible, least, share) != wins_share(self.visible, most, share)
            return asked & (differ | ((least == 0) & (most > 0)))

        area, indices, least = self._cell_area(), np.flatnonzero(asked), np.zeros(self.nobody, np.int64)
        least[indices] = self.wholly.pixels(indices, area) + self.own_beyond
        most = least.copy()
        most[indices] += self.partly.pixels(indices, area)
        candidate, cell = self.partly.pairs(np.flatnonzero(doubtful(most)), area > 0)
        y, x = self._cell_pixels(cell)
        while len(candidate):
            blocks = Blocks.of(y, x, candidate, np.ones_like(candidate))
            parts = [self._measure(part, least) for part in blocks.chunks()]
            y, x, candidate = (np.concatenate(column, -1) for column in zip(*parts))
            most = least + _sums(candidate, (y[1] - y[0]) * (x[1] - x[0]), self.nobody)
            rest = doubtful(most)[candidate]
            y, x, candidate = y[:, rest], x[:, rest], candidate[rest]
        return asked & wins_share(self.visible, least, share)

    def paint(self, numbers: NDArray[np.int32]) -> NDArray[np.int32]:
        """As `PlainCompetition.paint`."""
        ids = np.repeat(np.repeat(numbers[self.cells], self.x.size, 1), self.y.size, 0)
        if ids.shape != self.shape:
            inside, ids = ids, np.full(self.shape, numbers[self.winner_beyond], np.int32)
            ids[: inside.shape[0], : inside.shape[1]] = inside
        flat = ids.ravel()
        for y, x, winner in self.painted:
            flat[(y * self.shape[1])[:, None] + x] = numbers[winner]
        return ids

    def _above(self, probability: float) -> np.float32:
        """What a lower bound must exceed for the interpolated value to exceed `probability`."""
        return np.float32(probability) * (1 + self.relative) + self.absolute

    def _below(self, probability: float) -> np.float32:
        """What an upper bound must exceed for the interpolated value perhaps to exceed `probability`."""
        return np.float32(probability) * (1 - self.relative) - self.absolute

    def _settle_cells(self, won: Indices) -> tuple[Indices, Blocks]:
        """The winner of every cell that has only one, R×C, and the other cells as blocks."""
        area = self._cell_area()
        if self.config.mask_threshold:
            floor, candidate, cell = self._box_bounds(area)
            count = np.bincount(cell, minlength=len(area))
            contested = self._contested(count, floor) & (area > 0)
        else:
            floor, high = self._cell_bounds(area)
            alive = self._may_win(high, self.scores[: len(high), None], floor)
            count = np.add.reduce(alive.view(np.uint8), 0, dtype=np.uint16).astype(np.int64)
            contested = self._contested(count, floor) & (area > 0)
        if count[contested].sum() > CROWDED * self.nobody * len(area):
            raise BoundsDoNotPay
        if not self.config.mask_threshold:
            candidate, cell = np.divmod(np.flatnonzero(alive), len(area))
        winner = np.full(len(area), self.nobody)
        winner[cell] = candidate
        won += _sums(winner, np.where(contested, 0, area), len(won))
        pairs = contested[cell]
        candidate, cell = candidate[pairs], cell[pairs]
        order = np.argsort(cell.astype(np.uint16 if len(area) < 1 << 16 else np.int32), kind="stable")
        y, x = self._cell_pixels(np.flatnonzero(contested))
        blocks = Blocks.of(y, x, candidate[order], count[contested])
        return winner.reshape(len(self.y.size), len(self.x.size)), blocks

    def _cell_bounds(self, area: Indices) -> tuple[Values, Values]:
        """What the best bid in a cell exceeds everywhere, (R·C,), and the greatest of each, (m, R·C).

        Nobody bids more than the score, and the best scores come first: the n - m last candidates are left
        out where the others leave them nothing to win. Takes down, too, in which cells a mask exceeds 0.5:
        `wholly` or perhaps `partly`. For a pixel threshold of 0.

        The first row and column of the masks stand twice, so that cell (r, c) has the corners (r, c) and
        (r + 1, c + 1) of the flat array; the last ones are their own neighbours.
        """
        logits = self.logits[:, self.y.source, self.x.source]
        n, height, width = logits.shape
        step, cells = width + 1, len(area)
        floor, high = np.zeros(cells, np.float32), np.empty((n, cells), np.float32)
        wholly, partly = (np.empty((n, cells), bool) for _ in range(2))
        self.wholly, self.partly = _Dense(wholly), _Dense(partly)
        # A few candidates at a time, in memory used again: fresh memory costs more than the arithmetic.
        count = max(CHUNK_VALUES // cells, 1)
        scratch = np.empty((3, count, height + 1, step), np.float32)
        for first in range(0, n, count):
            part = slice(first, first + count)
            scores = self.scores[part, None]
            corners, rows, low = scratch[:, : len(scores)]
            corners[:, 1:, 1:] = logits[part]
            corners[:, 1:, 0] = corners[:, 1:, 1]
            corners[:, 0] = corners[:, 1]
            probabilities(corners, self.config.hard_sigmoid)
            corners *= scores[:, None]
            for extreme, bound in ((np.minimum, low), (np.maximum, high[part].reshape(low.shape))):
                extreme(corners.ravel()[:-step], corners.ravel()[step:], out=rows.ravel()[:-step])
                rows[:, -1] = corners[:, -1]
                extreme(rows.ravel()[:-1], rows.ravel()[1:], out=bound.ravel()[:-1])
                bound[:, :, -1] = rows[:, :, -1]
            least = low.reshape(-1, cells)
            np.maximum(floor, least.max(0), out=floor)
            np.greater(least, self._above(0.5) * scores, out=wholly[part])
            np.greater(high[part], self._below(0.5) * scores, out=partly[part])
            partly[part] ^= wholly[part]
            rest = self.scores[part.stop :] * np.float32(1.0001)  # the hard sigmoid ends at 1.00002
            if len(rest) and not self._may_win(rest[:1], rest[:1], floor.min()):
                return floor, high[: part.stop]
        return floor, high

    def _box_bounds(self, area: Indices) -> tuple[Values, Indices, Indices]:
        """As `_cell_bounds`, with a pixel threshold: `floor`, and candidate and cell of those that may win.

        A candidate is looked at where its mask may exceed the threshold or 0.5: in a box of few cells for
        small objects.
        """
        logits = self.logits[:, self.y.source, self.x.source]
        n, height, width = logits.shape
        floor = np.zeros((height + 1, width + 1), np.float32)
        least = self._below(min(self.config.mask_threshold, 0.5))
        beyond = np.float32(_logit(float(least), self.config.hard_sigmoid) - 1e-3)
        # Rows and columns in which each mask exceeds it: the first, and the one after the last.
        above = logits > beyond
        boxes = []
        for some in map(np.asarray, (above.any(2), above.any(1))):
            boxes += [some.argmax(1), some.shape[1] - some[:, ::-1].argmax(1)]
        # The outer cells have the outer rows and columns twice.
        padded = np.empty((n, height + 2, width + 2), np.float32)
        padded[:, 1:-1, 1:-1] = logits
        padded[:, 1:-1, 0], padded[:, 1:-1, -1] = logits[:, :, 0], logits[:, :, -1]
        padded[:, 0], padded[:, -1] = padded[:, 1], padded[:, -2]
        number = np.arange(floor.size).reshape(floor.shape)
        found: list[tuple[Values, Values, Indices]] = []
        counts = np.zeros(n, np.int64)
        for i in np.flatnonzero(above.any((1, 2))):
            score = self.scores[i]
            top, bottom, left, right = (int(side[i]) for side in boxes)
            cells = slice(top, bottom + 1), slice(left, right + 1)  # they reach one row and column beyond
            corners = padded[i, top : bottom + 2, left : right + 2].copy()
            corners = probabilities(corners, self.config.hard_sigmoid)
            corners *= score
            low, high = (
                f(rows[:, :-1], rows[:, 1:])
                for f, rows in ((f, f(corners[:-1], corners[1:])) for f in (np.minimum, np.maximum))
            )
            claimed = floor[cells]
            np.maximum(claimed, self._claims(low, score), out=claimed)
            some = high > least * score
            found.append((low[some], high[some], number[cells][some]))
            counts[i] = len(found[-1][0])
        bids = [np.concatenate(column) for column in zip(*found)] if found else np.zeros((3, 0))
        low, high, cell = bids[0], bids[1], bids[2].astype(np.int64)
        candidate = np.repeat(np.arange(n), counts)
        scores = self.scores[candidate]
        inside = low > self._above(0.5) * scores
        edge = (high > self._below(0.5) * scores) & ~inside
        self.wholly, self.partly = (_Sparse(candidate[own], cell[own], n) for own in (inside, edge))
        floor = floor.ravel()
        alive = self._may_win(high, scores, floor[cell])
        return floor, candidate[alive], cell[alive]

    def _cell_area(self) -> Indices:
        """(R·C,) pixels of every cell."""
        return np.outer(self.y.size, self.x.size).ravel()

    def _cell_pixels(self, cell: Indices) -> tuple[Indices, Indices]:
        """The first and last y and x, (2, K) each, of cells counted row by row."""
        row, column = np.divmod(cell, len(self.x.size))
        return self.y.edges[np.stack([row, row + 1])], self.x.edges[np.stack([column, column + 1])]

    def _claims(self, low: Values, scores: Values) -> Values:
        """The least bids of a block, 0 where they may lie under the pixel threshold."""
        if self.config.mask_threshold:
            low = np.where(low > self._above(self.config.mask_threshold) * scores, low, np.float32(0))
        return low

    def _may_win(self, high: Values, scores: Values, floor: Values) -> Flags:
        """Whether a candidate may win a pixel of a block where the best bid nowhere falls below `floor`."""
        alive: Flags = high >= floor * (1 - 2 * self.relative) - 2 * self.absolute
        if self.config.mask_threshold:
            alive &= high > self._below(self.config.mask_threshold) * scores
        return alive

    def _contested(self, count: Indices, floor: Values) -> Flags:
        """Whether it is open who wins a block; with a pixel threshold nobody is a candidate, too."""
        if self.config.mask_threshold:
            return (count > 1) | ((count == 1) & (floor == 0))
        return count > 1

    def _settle(self, blocks: Blocks, won: Indices) -> None:
        """Split the blocks until every one has a winner or is small enough to be computed."""
        for part in blocks.chunks():
            if part.side > SMALL:
                self._settle(self._split(part, won), won)
            else:
                self._compute(part, won)

    def _split(self, blocks: Blocks, won: Indices) -> Blocks:
        """Paints the parts of blocks that have one winner, and returns the others."""
        y, x, low, high = self._parts(blocks)
        scores = self.scores[blocks.candidate]
        floor = np.maximum.reduceat(self._claims(low, scores), blocks.start, 1)
        alive = self._may_win(high, scores, np.take(floor, blocks.owner, 1))
        area = (y[1] - y[0]) * (x[1] - x[0])
        if not area.all():
            alive &= np.take(area > 0, blocks.owner, 1)
        part, pair = np.nonzero(alive)
        block = part * len(blocks.start) + blocks.owner[pair]
        candidate = blocks.candidate[pair]
        winner = np.full(floor.size, self.nobody)
        winner[block] = candidate
        count = np.bincount(block, minlength=floor.size)
        contested = self._contested(count, floor.ravel())
        y, x = y.reshape(2, -1), x.reshape(2, -1)
        self._paint(y[:, ~contested], x[:, ~contested], winner[~contested], won)
        pairs = contested[block]
        return Blocks.of(y[:, contested], x[:, contested], candidate[pairs], count[contested])

    def _parts(self, blocks: Blocks) -> tuple[Indices, Indices, Values, Values]:
        """Blocks cut into q×q parts: their y and x, (2, q², K), and least and greatest bid, (q², M)."""
        q = min(-(-blocks.side // TILE), 4)
        cuts = np.arange(q + 1)[:, None]
        ys, xs = (e[0] + (e[1] - e[0]) * cuts // q for e in (blocks.y, blocks.x))
        lattice = self._probabilities(
            blocks, np.minimum(ys, blocks.y[1] - 1), np.minimum(xs, blocks.x[1] - 1)
        )
        lattice *= self.scores[blocks.candidate]
        low, high = (
            f(f(lattice[:-1, :-1], lattice[1:, :-1]), f(lattice[:-1, 1:], lattice[1:, 1:])).reshape(q * q, -1)
            for f in (np.minimum, np.maximum)
        )
        y = np.stack([np.repeat(ys[:-1], q, 0), np.repeat(ys[1:], q, 0)])
        x = np.stack([np.tile(xs[:-1], (q, 1)), np.tile(xs[1:], (q, 1))])
        return y, x, low, high

    def _compute(self, blocks: Blocks, won: Indices) -> None:
        """Paints blocks pixel by pixel."""
        y, x = pixels(blocks.y), pixels(blocks.x)
        bids = self._probabilities(blocks, y, x)
        if self.config.mask_threshold:
            bids[bids <= np.float32(self.config.mask_threshold)] = 0
        bids *= self.scores[blocks.candidate]
        bids = bids.reshape(len(y) * len(x), -1)
        # Candidate after candidate, the blocks with most of them in front; of equals the first stays.
        count = np.diff(blocks.start, append=len(blocks.candidate))
        order = np.argsort(-count, kind="stable")
        first = blocks.start[order]
        best = np.take(bids, first, 1)
        place = np.zeros(best.shape, np.uint32)
        for rank, left in enumerate(np.searchsorted(-count[order], -np.arange(1, count.max())).tolist(), 1):
            rival = np.take(bids, first[:left] + rank, 1)
            np.maximum(place[:, :left], (rival > best[:, :left]) * np.uint32(rank), out=place[:, :left])
            np.maximum(best[:, :left], rival, out=best[:, :left])
        winner = np.take(blocks.candidate, first + place)
        if self.config.mask_threshold:
            winner[best == 0] = self.nobody
        valid = whole(blocks)[..., order].reshape(winner.shape)
        won += np.bincount(winner[valid] if not valid.all() else winner.ravel(), minlength=len(won))
        self.painted.append((y[:, order], x[:, order], winner.reshape(len(y), len(x), -1)))

    def _paint(self, y: Indices, x: Indices, winner: Indices, won: Indices) -> None:
        """Blocks of one winner each."""
        area = (y[1] - y[0]) * (x[1] - x[0])
        some = area > 0
        if some.any():
            y, x, winner = y[:, some], x[:, some], winner[some]
            won += _sums(winner, area[some], len(won))
            self.painted.append((pixels(y), pixels(x), winner))

    def _measure(self, blocks: Blocks, own: Indices) -> tuple[Indices, Indices, Indices]:
        """Counts where masks exceed 0.5 in blocks of one candidate each.

        Adds what is certain to `own`, and returns y, x and candidate of parts that remain open.
        """
        if blocks.side <= SMALL:
            inside = self._probabilities(blocks, pixels(blocks.y), pixels(blocks.x)) > 0.5
            own += _sums(blocks.candidate, (inside & whole(blocks)).sum((0, 1)), len(own))
            return blocks.y[:, :0], blocks.x[:, :0], blocks.candidate[:0]
        y, x, low, high = self._parts(blocks)
        candidate, scores = np.broadcast_to(blocks.candidate, low.shape), self.scores[blocks.candidate]
        area = (y[1] - y[0]) * (x[1] - x[0])
        inside = low > self._above(0.5) * scores
        own += _sums(candidate[inside], area[inside], len(own))
        partly = (high > self._below(0.5) * scores) & ~inside & (area > 0)
        return y[:, partly], x[:, partly], candidate[partly]

    def _probabilities(self, blocks: Blocks, y: Indices, x: Indices) -> Values:
        """(a, b, M) of every pair at the pixels y (a, K) × x (b, K) of its block."""
        rows, columns, (_, height, width) = self.y.taps, self.x.taps, self.logits.shape
        flat, mask = self.logits.ravel(), blocks.candidate * (height * width)
        top, bottom = (mask + (r[y[0]] * width)[blocks.owner] for r in (rows.low, rows.high))
        left, right = (c[x[0]][blocks.owner] for c in (columns.low, columns.high))
        down, across = (np.take(t.weight[p], blocks.owner, 1) for t, p in ((rows, y), (columns, x)))

        def side(column: Indices) -> Values:
            high, low = np.take(flat, bottom + column), np.take(flat, top + column)
            return low + (high - low) * down

        low = side(left)
        logits = (side(right) - low)[:, None] * across
        logits += low[:, None]
        return probabilities(logits, self.config.hard_sigmoid)


@dataclass(frozen=True, slots=True)
class _Dense:
    """Cells of candidates, as a flag for each, (n, R·C)."""

    flags: Flags

    def pixels(self, indices: Indices, area: Indices) -> Indices:
        """How many pixels the cells of some candidates have."""
        return _row_sums(self.flags[indices], area)

    def pairs(self, indices: Indices, some: Flags) -> tuple[Indices, Indices]:
        """Candidate and cell, for some candidates and the flagged cells."""
        which, cell = np.nonzero(self.flags[indices] & some)
        return indices[which], cell


@dataclass(frozen=True, slots=True)
class _Sparse:
    """The same as pairs of candidate and cell."""

    candidate: Indices
    cell: Indices
    n: int

    def pixels(self, indices: Indices, area: Indices) -> Indices:
        """See `_Dense`."""
        return _sums(self.candidate, area[self.cell], self.n)[indices]

    def pairs(self, indices: Indices, some: Flags) -> tuple[Indices, Indices]:
        """See `_Dense`."""
        asked = np.zeros(self.n, bool)
        asked[indices] = True
        kept = asked[self.candidate] & some[self.cell]
        return self.candidate[kept], self.cell[kept]


def _logit(probability: float, hard: bool) -> float:
    """Where a mask has a probability; minus infinity where it is not above 0."""
    if probability <= 0:
        return -math.inf
    return probability / SIXTH - 3 if hard else math.log(probability / (1 - probability))


def _row_sums(flags: Flags, values: Indices) -> Indices:
    """(n,) sums of the values (m,) that each row flags; exact."""
    kind = np.float32 if values.sum() < 1 << 24 else np.float64
    return (flags.astype(kind) @ values.astype(kind)).astype(np.int64)


def _sums(index: Indices, values: Indices, n: int) -> Indices:
    """(n,) the sum of the values of every index."""
    return np.bincount(index, values, n).astype(np.int64)
