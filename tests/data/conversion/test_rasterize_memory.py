"""Many large shapes do not need many times the image's memory, and are drawn the same in bands."""

import tracemalloc

import numpy as np
import pytest

from maskconver.data.conversion import rasterize as module
from maskconver.data.conversion.annotation import Faults, Shape
from maskconver.data.conversion.rasterize import rasterize


def polygons(count: int, side: int) -> list[Shape]:
    rng = np.random.default_rng(0)
    corners = [[0, 0], [side, 3], [side - 2, side], [2, side - 5]]
    return [Shape("a", polygons=[np.array(corners) + rng.uniform(0, 4, (4, 2))]) for _ in range(count)]


def test_memory_of_many_large_shapes() -> None:
    side, count = 800, 60
    tracemalloc.start()
    try:
        rasterize(polygons(count, side), (side, side), Faults(), "a", edges="centers")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 40 * side * side  # as bool they alone would be 60 bytes a pixel


@pytest.mark.parametrize("band", [1, 500, 1 << 20])
def test_bands_do_not_change_what_is_drawn(band: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = rasterize(polygons(5, 60), (70, 64), Faults(), "a", edges="centers").ids
    monkeypatch.setattr(module, "_BAND", band)
    assert (rasterize(polygons(5, 60), (70, 64), Faults(), "a", edges="centers").ids == expected).all()
