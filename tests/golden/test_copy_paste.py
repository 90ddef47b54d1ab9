"""Copy-paste against the reference's, with its draws replaced by the README's."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray

from maskconver.core.segments import SegmentTable
from maskconver.data.dataset import Sample
from maskconver.training.augment.copy_paste import paste
from maskconver.training.augment.geometry import crop_image, crop_map, resize_crop_geometry

from .reference import case

pytestmark = pytest.mark.golden

SIZE = (48, 48)
THINGS = 6  # categories below are things
# flip, scale and offset fractions of base and pasted; instances and stuff classes that are pasted
CASES: dict[str, tuple] = {
    "a": ((False, 1.0, (0, 0)), (False, 1.0, (0, 0)), (1, 4), ()),
    "b": ((True, 1.3, (0.5, 0.25)), (False, 0.6, (0, 0)), (1, 2, 4), (8,)),
    "c": ((False, 0.5, (0, 0)), (True, 1.4, (0.9, 0.4)), (), (6,)),
}
ARRAYS = case("augment/copypaste")


def on_canvas(number: int, flip: bool, scale: float, place: tuple) -> tuple[NDArray, NDArray]:
    """Float image and id map (things: the instance; stuff: 100 + its category) on the canvas."""
    image, category, instance = (ARRAYS[f"{k}{number}"] for k in ("image", "category", "instance"))
    ids = np.where(instance > 0, instance, np.where(category > 0, 100 + category, 0)).astype(np.int32)
    if flip:
        image, ids = image[:, ::-1], ids[:, ::-1]
    size = (ids.shape[0], ids.shape[1])
    geometry = resize_crop_geometry(size, SIZE, jitter=None if scale == 1 else scale, place=place)
    # The reference cuts a float32 product to whole pixels: its maps may be a pixel short of its images.
    short = tuple(int(np.float32(n) * (np.float32(t) / np.float32(n))) for n, t in zip(size, geometry.scaled))
    of_maps = dataclasses.replace(geometry, scaled=short)
    canvas, id_canvas = np.zeros((*SIZE, 3), np.float32), np.zeros(SIZE, np.int32)
    for array, part in ((canvas, crop_image(image, geometry)), (id_canvas, crop_map(ids, of_maps))):
        array[: part.shape[0], : part.shape[1]] = part
    return canvas, id_canvas


def categories_of(number: int) -> dict[int, int]:
    category, instance = ARRAYS[f"category{number}"], ARRAYS[f"instance{number}"]
    table = {100 + int(c): int(c) for c in np.unique(category[instance == 0]) if c}
    for i in np.unique(instance[instance > 0]):
        table[int(i)] = int(np.bincount(category[instance == i]).argmax())
    return table


def sample(number: int, choices: tuple) -> Sample:
    image, ids = on_canvas(number, *choices)
    table = categories_of(number)
    n = len(table)
    rows = SegmentTable(
        np.array([*table], np.int32), np.array([*table.values()]), np.zeros(n, bool), np.zeros(n, np.int64)
    )
    return Sample(image, ids, rows)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", CASES)
def test_maps_and_image(name: str) -> None:
    base_choices, pasted_choices, instances, stuff = CASES[name]
    base, pasted = sample(1, base_choices), sample(2, pasted_choices)
    largest = int(base.ids[base.ids < 100].max(initial=0))  # the reference counts instances alone
    made = paste(base, pasted, np.isin(pasted.ids, [*instances, *(100 + c for c in stuff)]))
    shift = int(base.ids.max()) + 1
    category = np.zeros(SIZE, int)
    instance = np.zeros(SIZE, int)
    for i, label in zip(made.segments.ids.tolist(), made.segments.labels.tolist()):
        here = made.ids == i
        category[here] = label
        if label < THINGS:
            instance[here] = i if i <= largest else i - shift + largest + 1
    np.testing.assert_array_equal(category, ARRAYS[f"{name}_category"])
    np.testing.assert_array_equal(instance, ARRAYS[f"{name}_instance"])
    difference = np.abs(made.image.astype(int) - ARRAYS[f"{name}_image"].astype(int))
    # README: single values off by 1 because the float result is cut to whole numbers
    assert difference.max() <= 1 and (difference > 0).mean() < 0.003
