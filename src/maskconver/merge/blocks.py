"""Rectangles of output pixels, the cells of the mask grid they lie in, and the candidates for them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..core.resize import Taps

CHUNK = 1 << 14  # pairs of block and candidate worked on at a time; bounds the memory

Indices = NDArray[np.int64]
Flags = NDArray[np.bool_]
Values = NDArray[np.float32]


class BoundsDoNotPay(Exception):
    """The answer is smaller than the masks, or most candidates may win nearly everywhere."""


@dataclass(slots=True)
class Axis:
    """The output pixels of one axis that lie in the image, and the mask cells they lie in.

    Cells lie between the centres of neighbouring mask rows, the first before all, the last behind all.

    Attributes:
        taps: of those pixels.
        source: the r mask rows that are read at all.
        edges: (r + 2,) the first pixel of every cell, and the end; the outer cells may be empty.
    """

    taps: Taps
    source: slice
    edges: Indices

    @classmethod
    def of(cls, taps: Taps) -> Axis:
        """Raises BoundsDoNotPay where the answer is smaller than the masks, so that cells are passed over."""
        taps = taps[: int(taps.inside.sum())]
        first, last = int(taps.low[0]), int(taps.high[-1])
        before = (taps.low == first) & (taps.weight == 0)
        cell = np.where(before, 0, taps.low - first + 1)
        edges = np.searchsorted(cell, np.arange(last - first + 3))
        if (np.diff(edges)[1:-1] == 0).any():
            raise BoundsDoNotPay
        return cls(taps, slice(first, last + 1), edges)

    @property
    def size(self) -> Indices:
        """(r + 1,) pixels of every cell."""
        return np.diff(self.edges)


def bounds_error(axes: tuple[Axis, Axis], logits: Values) -> float:
    """How far rounding may lift the probability of an interpolated logit above its corners', relative.

    The logit itself stays between its neighbours, rounded or not, unless a weight is all but 1.
    """
    if max(float(axis.taps.weight.max()) for axis in axes) <= 1 - 1e-6:
        return 1e-6
    return 1e-6 * (1 + float(max(logits.max(), -logits.min())))


@dataclass(slots=True)
class Blocks:
    """K rectangles of output pixels, each within one cell of the mask grid, and who may win there.

    Attributes:
        y, x: (2, K) first pixel and the one after the last.
        candidate: (M,) those of each block side by side, in ascending order.
        start: (K,) where each block's candidates begin.
        owner: (M,) the block of each.
    """

    y: Indices
    x: Indices
    candidate: Indices
    start: Indices
    owner: Indices

    @classmethod
    def of(cls, y: Indices, x: Indices, candidate: Indices, count: Indices) -> Blocks:
        """From the (K,) number of candidates of each block."""
        return cls(y, x, candidate, np.cumsum(count) - count, np.repeat(np.arange(len(count)), count))

    @property
    def side(self) -> int:
        """The longest side of any block in pixels."""
        return max(int((self.y[1] - self.y[0]).max()), int((self.x[1] - self.x[0]).max()))

    def chunks(self) -> Iterator[Blocks]:
        """The same in portions of about `CHUNK` pairs."""
        if len(self.candidate) <= CHUNK:
            if len(self.start):
                yield self
            return
        ends = np.append(self.start, len(self.candidate))
        first = 0
        while first < len(self.start):
            last = max(int(np.searchsorted(ends, ends[first] + CHUNK, "right")) - 1, first + 1)
            a, b = ends[first], ends[last]
            y, x, start = self.y[:, first:last], self.x[:, first:last], self.start[first:last] - a
            yield Blocks(y, x, self.candidate[a:b], start, self.owner[a:b] - first)
            first = last


def pixels(span: Indices) -> Indices:
    """(a, K) the pixels of spans (2, K); shorter ones repeat their last."""
    longest = int((span[1] - span[0]).max())
    return np.minimum(span[0] + np.arange(longest)[:, None], span[1] - 1)


def whole(blocks: Blocks) -> Flags:
    """(a, b, K) which pixels of the blocks are no repetition."""
    y, x = ((np.arange(n.max())[:, None] < n) for n in (e[1] - e[0] for e in (blocks.y, blocks.x)))
    both: Flags = y[:, None] & x
    return both
