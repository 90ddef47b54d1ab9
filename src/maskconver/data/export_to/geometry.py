"""Polygons with fewer corners, polygons in one ring, and run lengths of masks."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ...core.polygons import Polygon, Ring
from ...core.segments import run_starts


def simplified(ring: Ring, tolerance: float) -> Ring:
    """A ring with fewer corners, none of those left out further than `tolerance` pixels from what remains.

    Douglas and Peucker, 1973, of both halves of the ring. A ring that would vanish stays as it is.
    """
    if len(ring) < 5:
        return ring
    far = int(np.abs(ring - ring[0]).sum(1).argmax())
    closed = np.concatenate([ring, ring[:1]]).astype(np.float64)
    kept = {0, far}
    open_parts = [(0, far), (far, len(ring))]
    while open_parts:
        first, last = open_parts.pop()
        if last - first < 2:
            continue
        start, along = closed[first], closed[last] - closed[first]
        offset = closed[first + 1 : last] - start
        length = float(np.hypot(*along))
        across = np.abs(offset[:, 0] * along[1] - offset[:, 1] * along[0])
        distance = across / length if length else np.hypot(offset[:, 0], offset[:, 1])
        if distance.max() > tolerance:
            middle = first + 1 + int(distance.argmax())
            kept.add(middle)
            open_parts += [(first, middle), (middle, last)]
    return ring[sorted(kept)] if len(kept) > 2 else ring


def one_ring(parts: list[Polygon]) -> Ring:
    """All parts and holes of a segment as one ring, joined by lines of no width.

    The lines run along pixel borders and are gone twice, there and back, so that filling the ring by the
    even-odd rule gives the same pixels.
    """
    joined, *others = [ring for outer, holes in parts for ring in (outer, *holes)]
    for ring in others:
        steps = -(-len(joined) // 2048), -(-len(ring) // 128)  # enough to find corners that are near
        some, few = joined[:: steps[0]], ring[:: steps[1]]
        distance = np.abs(some[:, None] - few[None]).sum(2)
        i, j = np.unravel_index(int(distance.argmin()), distance.shape)
        here, there = int(i) * steps[0], int(j) * steps[1]
        corner = np.array([[joined[here, 0], ring[there, 1]]], ring.dtype)
        turned = np.roll(ring, -there, 0)
        joined = np.concatenate([joined[: here + 1], corner, turned, turned[:1], corner, joined[here:]])
    return joined


def runs(mask: NDArray[np.bool_]) -> list[int]:
    """Lengths of the runs of a mask, row after row, of background and object in turn; background first."""
    flat = mask.ravel().view(np.uint8)
    ends = [*run_starts(flat).tolist(), flat.size]
    lengths = [end - start for start, end in pairwise(ends)]
    return [0, *lengths] if flat[0] else lengths
