"""Which pieces of a stuff class get a centre."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from maskconver.training.targets import stuff_islands


def mask_of(*windows: tuple[int, int, int, int], size: tuple[int, int] = (120, 160)) -> NDArray[np.bool_]:
    mask = np.zeros(size, bool)
    for y, x, h, w in windows:
        mask[y : y + h, x : x + w] = True
    return mask


def plain(mask: NDArray[np.bool_], k: int, dilation: str, min_area: int) -> list[NDArray[np.bool_]]:
    """The definition word by word, with three 21-wide max pools."""
    pool = {"2d": (21, 21), "reference": (1, 21), "none": (1, 1)}[dilation]
    dilated = mask
    for _ in range(3):
        dilated = ndimage.maximum_filter(dilated, pool, mode="constant")
    components, count = ndimage.label(dilated)
    sizes = [(components == i).sum() for i in range(1, count + 1)]
    chosen = sorted(range(count), key=lambda i: (-sizes[i], i))[:k]
    islands = [mask & (components == i + 1) for i in chosen]
    return [i for i in islands if i.sum() >= min_area]


@given(
    windows=st.lists(
        st.tuples(st.integers(0, 110), st.integers(0, 150), st.integers(1, 30), st.integers(1, 40)),
        max_size=6,
    ),
    k=st.integers(1, 4),
    dilation=st.sampled_from(["2d", "reference", "none"]),
    min_area=st.sampled_from([0, 1, 200]),
)
@settings(max_examples=60, deadline=None)
def test_islands_are_those_of_the_definition(windows, k, dilation, min_area) -> None:  # type: ignore[no-untyped-def]
    mask = mask_of(*windows)
    expected = plain(mask, k, dilation, min_area)
    found = stuff_islands(mask, k, dilation, min_area=min_area)
    assert len(found) == len(expected)
    for a, b in zip(found, expected):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("gap", "count"), [(60, 1), (61, 2)])
def test_pieces_within_sixty_pixels_are_one_island(gap: int, count: int) -> None:
    side_by_side = mask_of((20, 5, 20, 20), (20, 25 + gap, 20, 20))
    on_top = mask_of((5, 20, 10, 20), (15 + gap, 20, 10, 20))
    assert len(stuff_islands(side_by_side, 3, "2d")) == count
    assert len(stuff_islands(on_top, 3, "2d")) == count


def test_the_reference_s_dilation_joins_along_x_only() -> None:
    on_top = mask_of((5, 20, 10, 20), (16, 20, 10, 20))
    assert len(stuff_islands(on_top, 3, "2d")) == 1
    assert len(stuff_islands(on_top, 3, "reference")) == 2
    side_by_side = mask_of((5, 20, 10, 20), (5, 50, 10, 20))
    assert len(stuff_islands(side_by_side, 3, "reference")) == 1
    assert len(stuff_islands(side_by_side, 3, "none")) == 2


def test_a_small_island_is_dropped_and_not_replaced_by_the_next() -> None:
    # a long thin line dilates to the largest island, but has few pixels of its own
    mask = mask_of((0, 0, 1, 120), (80, 5, 30, 30), (80, 100, 25, 25))
    assert [i.sum() for i in stuff_islands(mask, 2, "none", min_area=200)] == [900, 625]
    mask = mask_of((0, 0, 1, 160), (80, 5, 12, 12))
    assert [i.sum() for i in stuff_islands(mask, 1, "2d", min_area=161)] == []


def test_an_empty_mask_has_no_island() -> None:
    assert stuff_islands(np.zeros((8, 8), bool), 3) == []
