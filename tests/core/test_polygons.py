"""Polygons of masks and id maps, filled again."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskconver.core.polygons import ids_to_polygons


def filled(polygons, size) -> np.ndarray:
    """How many rings enclose each pixel, modulo two: the even-odd rule at the centres of pixels."""
    crossings = np.zeros((size[0], size[1] + 1), np.int64)
    for outer, holes in polygons:
        for ring in (outer, *holes):
            for (x, y), (x2, y2) in zip(ring, np.roll(ring, -1, 0)):
                crossings[min(y, y2) : max(y, y2), x] += x == x2
    return (np.cumsum(crossings, 1)[:, :-1] % 2).astype(bool)


def parts(mask) -> int:
    """How many parts hang together by sides, by flooding."""
    left, count = {tuple(p) for p in np.argwhere(mask).tolist()}, 0
    while left:
        count, todo = count + 1, [left.pop()]
        while todo:
            y, x = todo.pop()
            for near in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
                if near in left:
                    left.remove(near)
                    todo.append(near)
    return count


def mask_to_polygons(mask):
    return ids_to_polygons(mask.astype(np.uint8)).get(1, [])


def area(ring) -> float:
    x, y = ring.T
    return (x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 14), st.integers(1, 14), st.floats(0.1, 0.95))
def test_filling_gives_back_the_pixels_of_any_mask(seed, height, width, share):
    mask = np.random.default_rng(seed).random((height, width)) < share
    found = mask_to_polygons(mask)
    assert (filled(found, mask.shape) == mask).all()
    assert len(found) == parts(mask)
    for outer, holes in found:
        alone = filled([(outer, holes)], mask.shape)
        assert parts(alone) == 1
        assert area(outer) > 0 and all(area(hole) < 0 for hole in holes)
        assert area(outer) + sum(area(hole) for hole in holes) == alone.sum()
        for ring in (outer, *holes):
            assert len({tuple(p) for p in ring.tolist()}) == len(ring) >= 4
            steps = np.diff(ring, axis=0, append=ring[:1])
            assert ((steps != 0).sum(1) == 1).all()  # along one axis, and never on in the same direction:
            assert ((steps[:, 0] != 0) != (np.roll(steps, -1, 0)[:, 0] != 0)).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 12), st.integers(1, 4))
def test_all_segments_of_a_map_are_those_of_their_masks(seed, height, width, count):
    ids = np.random.default_rng(seed).choice(np.arange(count + 1) * 70_000, (height, width))
    found = ids_to_polygons(ids)
    assert set(found) == set(np.unique(ids).tolist()) - {0}
    for number, polygons in found.items():
        alone = mask_to_polygons(ids == number)
        assert [p[0].tolist() for p in polygons] == [p[0].tolist() for p in alone]
        assert [[h.tolist() for h in p[1]] for p in polygons] == [[h.tolist() for h in p[1]] for p in alone]


@pytest.mark.parametrize("size", [(0, 0), (0, 5), (3, 4)])
def test_an_empty_mask_has_none(size):
    assert mask_to_polygons(np.zeros(size, bool)) == []


def test_pixels_that_touch_at_a_corner_are_polygons_of_their_own():
    mask = np.array([[1, 0], [0, 1]], bool)
    assert [p[0].tolist() for p in mask_to_polygons(mask)] == [
        [[0, 0], [1, 0], [1, 1], [0, 1]],
        [[1, 1], [2, 1], [2, 2], [1, 2]],
    ]


def test_a_hole_that_reaches_the_outside_by_a_corner_is_a_hole():
    mask = np.array([[0, 1, 1], [1, 0, 1], [1, 1, 1]], bool)
    ((outer, holes),) = mask_to_polygons(mask)
    assert outer.tolist() == [[1, 0], [3, 0], [3, 3], [0, 3], [0, 1], [1, 1]]
    assert [sorted(h.tolist()) for h in holes] == [[[1, 1], [1, 2], [2, 1], [2, 2]]]


def test_an_island_in_a_hole_is_a_polygon_and_its_hole_belongs_to_it():
    mask = np.ones((9, 9), bool)
    mask[1:8, 1:8], mask[2:7, 2:7], mask[4, 4] = False, True, False
    ring, island = mask_to_polygons(mask)
    assert [len(ring[1]), len(island[1])] == [1, 1]
    assert area(ring[1][0]) == -49 and area(island[0]) == 25 and area(island[1][0]) == -1
