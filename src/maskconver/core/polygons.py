"""Exact polygons of masks: rings on pixel corners, so that filling them gives back the same pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ring = NDArray[np.int32]
"""(N, 2) x, y of corners in pixels, (0, 0) being the image's upper left; the first is not repeated."""
Polygon = tuple[Ring, list[Ring]]
"""An outer ring and its holes."""


def ids_to_polygons(ids: NDArray[np.integer]) -> dict[int, list[Polygon]]:
    """The polygons of all segments of an id map in one pass.

    A part is a set of pixels connected by their sides; pixels that touch only at a corner are separate parts.
    No ring crosses or touches itself, and holes touch their outer ring in single corners at most: they are
    valid polygons in the sense of OGC and GeoJSON. Outer rings run clockwise as seen in the image (y
    downwards), holes the other way.

    Args:
        ids: H×W, 0 = void.

    Returns:
        For each id its parts, the topmost first.
    """
    w = ids.shape[1] + 2
    padded = np.zeros((ids.shape[0] + 2, w), ids.dtype)
    padded[1:-1, 1:-1] = ids
    flat = padded.ravel()
    # An edge is pixel · 4 + side. Sides are top, right, bottom, left; each runs with its pixel on the right.
    outward, forward = np.array([-w, 1, w, -1]), np.array([1, w, -1, -w])
    above, before = np.flatnonzero(flat[w:] != flat[:-w]), np.flatnonzero(flat[1:] != flat[:-1])
    sides = (above + w, before, above, before + 1)
    edges = np.concatenate([pixel[flat[pixel] != 0] * 4 + s for s, pixel in enumerate(sides)])
    if not len(edges):
        return {}
    edges.sort()
    pixel, side = np.divmod(edges, 4)
    ahead = pixel + forward[side]
    beyond = ahead + outward[side]
    on = flat[ahead] == flat[pixel]
    left = on & (flat[beyond] == flat[pixel])
    follower = np.where(left, beyond, np.where(on, ahead, pixel)) * 4
    follower += (side + np.where(left, 3, np.where(on, 0, 1))) % 4
    follower = np.searchsorted(edges, follower)
    order, starts = _cycles(follower)
    ring_of = np.empty(len(edges), np.int64)
    ring_of[order] = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(order)))
    owners = flat[pixel[order[starts]]].tolist()

    y, x = np.divmod(pixel, w)
    x, y = x - 1 + ((side == 1) | (side == 2)), y - 1 + (side >= 2)  # where each edge begins
    turns = np.empty(len(edges), bool)
    turns[follower] = left | ~on
    order = order[turns[order]]
    x_corner, y_corner, ring = x[order], y[order], ring_of[order]
    first = np.searchsorted(ring, np.arange(len(starts)))
    cross = x_corner * np.roll(y_corner, -1) - np.roll(x_corner, -1) * y_corner
    last = np.append(first[1:], len(order)) - 1
    cross[last] = x_corner[last] * y_corner[first] - x_corner[first] * y_corner[last]
    is_hole = np.add.reduceat(cross, first) < 0

    # A ring that comes to a corner twice is cut there into rings that touch.
    vertex = (ring * padded.shape[0] + y_corner) * w + x_corner
    sorted_by = np.argsort(vertex, kind="stable")
    equal = np.flatnonzero(np.diff(vertex[sorted_by]) == 0)
    twice = np.zeros(len(order), bool)
    twice[sorted_by[equal]] = twice[sorted_by[equal + 1]] = True
    touches = np.logical_or.reduceat(twice, first).tolist()

    # Left of a hole lies its part; the run of pixels there begins at a ring of that part further left.
    west, east = np.flatnonzero(side == 3), np.flatnonzero(side == 1)
    east = east[np.argsort(x[east], kind="stable")]
    hole, at = np.unique(ring_of[east], return_index=True)  # the leftmost right side of each ring's pixels
    begin = west[np.searchsorted(pixel[west], pixel[east[at]], "right") - 1]
    parent = np.arange(len(starts))
    parent[hole] = np.where(is_hole[hole], ring_of[begin], hole)
    for i in np.argsort(x[east[at]], kind="stable"):
        parent[hole[i]] = parent[parent[hole[i]]]

    points = np.stack([x_corner, y_corner], 1).astype(np.int32)
    found: dict[int, list[Polygon]] = {}
    polygons: dict[int, Polygon] = {}
    holes: list[tuple[int, Ring]] = []
    rings = zip(np.split(points, first[1:]), np.split(twice, first[1:]), touches, is_hole.tolist(), owners)
    for number, (corners, double, touching, inner, owner) in enumerate(rings):
        parts = _cut(corners, double) if touching else [corners]
        if not inner:
            outer = max(parts, key=_area) if touching else corners
            polygons[number] = outer, []
            found.setdefault(int(owner), []).append(polygons[number])
            parts = [part for part in parts if part is not outer]
        holes += [(number, part) for part in parts]
    for number, part in holes:
        polygons[int(parent[number])][1].append(part)
    return found


def _cycles(follower: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The cycles of a permutation one after the other, by smallest number, and where each begins."""
    nodes = follower.tolist()
    seen = bytearray(len(nodes))
    order: list[int] = []
    starts: list[int] = []
    for at in range(len(nodes)):
        if not seen[at]:
            starts.append(len(order))
        while not seen[at]:
            seen[at] = 1
            order.append(at)
            at = nodes[at]
    return np.array(order), np.array(starts)


def _cut(corners: Ring, twice: NDArray[np.bool_]) -> list[Ring]:
    """A ring cut wherever it comes back to a corner, in rings that do not touch themselves."""
    parts: list[Ring] = []
    way: list[int] = []
    known: dict[tuple[int, ...], int] = {}  # corners that come twice: where they stand in the way
    for i, double in enumerate(twice.tolist()):
        if double:
            corner = tuple(corners[i].tolist())
            at = known.pop(corner, None)
            if at is not None:
                parts.append(corners[way[at:]])
                del way[at:]
            known[corner] = len(way)
        way.append(i)
    return [corners[way], *parts]


def _area(ring: Ring) -> int:
    """Twice the signed area; negative for holes."""
    x, y = ring.astype(np.int64).T
    return int((x * np.roll(y, -1) - np.roll(x, -1) * y).sum())
