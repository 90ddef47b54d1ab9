"""What people do with a result: measure it, narrow it down, save it."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from maskconver.core.categories import Categories
from maskconver.core.segmentation import Segmentation
from maskconver.errors import DataError

from .pets import CATEGORIES, IDS, small


def test_areas_and_boxes_are_those_of_the_pixels():
    assert [(s.id, s.area, s.bbox) for s in small()] == [
        (1, 4, (1, 0, 2, 2)),
        (2, 3, (0, 1, 2, 2)),
        (3, 3, (3, 0, 1, 3)),
    ]


def test_rows_carry_the_category_and_the_score():
    first = small().segments[0]
    assert (first.label, first.category_id, first.category, first.is_thing) == (0, 7, "cat", True)
    assert (
        first.score == 0.9
        and Segmentation.from_ids(IDS, CATEGORIES, labels=[0, 0, 2]).segments[0].score == 1.0
    )


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 9))
def test_areas_and_boxes_of_any_map_equal_those_measured_one_by_one(seed, height, width):
    rng = np.random.default_rng(seed)
    numbers = rng.choice(2**24 - 1, 4, replace=False) + 1
    ids = rng.choice(np.append(numbers, 0), (height, width))
    result = Segmentation.from_ids(ids, CATEGORIES, labels=[0, 1, 2, 0], segment_ids=numbers)
    for segment, number in zip(result, numbers):
        ys, xs = np.nonzero(ids == number)
        box = (xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1) if len(xs) else (0, 0, 0, 0)
        assert (segment.id, segment.area, segment.bbox) == (number, len(xs), box)


def test_a_segment_without_pixels_has_no_area_and_no_box():
    empty = Segmentation.from_ids(IDS, CATEGORIES, labels=[0, 0, 2, 1]).segments[3]
    assert empty.area == 0 and empty.bbox == (0, 0, 0, 0)


def test_maps_without_a_segment_and_maps_of_one_pixel_are_fine():
    nothing = Segmentation.from_ids(np.zeros((3, 4), int), CATEGORIES, labels=[])
    assert len(nothing) == 0 and (nothing.category_map() == -1).all()
    assert nothing.draw().size == (4, 3)
    one = Segmentation.from_ids(np.ones((1, 1), int), CATEGORIES, labels=[1])
    assert one.draw(labels=True).size == (1, 1) and one.segments[0].bbox == (0, 0, 1, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": [0, 0]}, "segment id 3"),
        ({"segment_ids": [1, 2, 2]}, "unique"),
        ({"segment_ids": [0, 1, 2]}, "positive"),
        ({"labels": [0, 0, 3]}, "0…2"),
        ({"labels": [-1, 0, 0]}, "0…2"),
    ],
)
def test_rows_that_do_not_fit_the_map_are_refused(changes, message):
    with pytest.raises(DataError, match=message):
        small(**({"scores": None} | changes))


def test_ids_may_be_large_but_not_wrap() -> None:
    big = np.array([[0, 2**31 - 1], [2**31 - 1, 7]])
    found = Segmentation.from_ids(big, CATEGORIES, labels=[0, 1], segment_ids=[7, 2**31 - 1])
    assert found.category_map().tolist() == [[-1, 1], [1, 0]]  # without a table of 8 GB
    assert found.filter(lambda s: s.id != 7).ids.tolist() == [[0, 2**31 - 1], [2**31 - 1, 0]]
    with pytest.raises(DataError, match="too large"):
        Segmentation.from_ids(big + 1, CATEGORIES, labels=[0, 1, 2], segment_ids=[1, 8, 2**31])


def test_category_map_has_labels_and_minus_one_for_void():
    np.testing.assert_array_equal(small().category_map(), [[-1, 0, 0, 2], [0, 0, 0, 2], [0, 0, -1, 2]])


def test_mask_is_one_segment():
    np.testing.assert_array_equal(small().mask(2), IDS == 2)


@pytest.mark.parametrize(
    ("how", "kept"),
    [
        ({"category": "cat"}, [1, 2]),
        ({"category": ["cat", "grass"]}, [1, 2, 3]),
        ({"things": False}, [3]),
        ({"things": True, "min_score": 0.7}, [1]),
        ({"min_area": 4}, [1]),
        ({"predicate": lambda s: s.bbox[0] == 0}, [2]),
        ({"category": "no such"}, []),
    ],
)
def test_filtering_keeps_ids_and_turns_the_rest_into_void(how, kept):
    seg = small()
    fewer = seg.filter(**how)
    assert [s.id for s in fewer] == kept
    np.testing.assert_array_equal(fewer.ids, np.where(np.isin(IDS, kept), IDS, 0))
    assert len(seg) == 3 and fewer.file_name == seg.file_name


def test_repr_says_what_is_in_the_image():
    assert repr(small()) == "<Segmentation of a/pet.jpg: 4×3 px, 2 things, 1 stuff: 2 cat, 1 grass>"


def test_coco_row():
    row = small().to_coco(17)
    assert row["image_id"] == 17 and row["file_name"] == "pet.png"
    assert row["segments_info"][1] == {
        "id": 2, "category_id": 7, "area": 3, "bbox": [0, 1, 2, 2], "iscrowd": 0, "score": 0.6,
    }  # fmt: skip
    json.dumps(row)


def test_saving_writes_a_panoptic_png_and_a_coco_file_of_one_image(tmp_path):
    path = small().save(tmp_path / "new")
    content = json.loads(path.read_text(encoding="utf-8"))
    rgb = np.asarray(Image.open(path.with_suffix(".png"))).astype(int)
    np.testing.assert_array_equal(rgb @ [1, 256, 65536], IDS)
    assert content["images"] == [{"id": "pet", "file_name": "a/pet.jpg", "height": 3, "width": 4}]
    assert content["annotations"][0]["image_id"] == "pet"
    assert Categories.from_json(content["categories"]) == CATEGORIES
    assert sorted(p.name for p in path.parent.iterdir()) == ["pet.json", "pet.png"]


def test_saving_never_writes_over_another_result_unless_its_name_is_given(tmp_path: Path) -> None:
    one = Segmentation.from_ids(np.ones((2, 3), np.int32), CATEGORIES, labels=[0])
    paths = [one.save(tmp_path) for _ in range(3)]
    assert [p.stem for p in paths] == ["segmentation", "segmentation_2", "segmentation_3"]
    for path in paths:
        row = json.loads(path.read_text(encoding="utf-8"))["annotations"][0]
        assert (tmp_path / row["file_name"]).is_file()
    assert one.save(tmp_path, "mine") == one.save(tmp_path, "mine") == tmp_path / "mine.json"
