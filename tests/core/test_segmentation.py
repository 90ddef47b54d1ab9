"""What people do with an answer: look at it, narrow it down, save it."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from maskconver.core.categories import Categories, Category
from maskconver.core.drawing import segment_colors
from maskconver.core.segmentation import Segmentation
from maskconver.errors import ConfigError, DataError

CATEGORIES = Categories(
    [
        Category(7, "cat", True, (220, 20, 60)),
        Category(9, "dog", True, (0, 120, 220)),
        Category(200, "grass", False, (40, 160, 40)),
    ]
)
IDS = np.array([[0, 1, 1, 3], [2, 1, 1, 3], [2, 2, 0, 3]])


def small(**changes) -> Segmentation:
    values = {"labels": [0, 0, 2], "scores": [0.9, 0.6, 0.5], "file_name": "a/pet.jpg"}
    return Segmentation.from_ids(IDS, CATEGORIES, **(values | changes))


def large(size=(240, 320), **changes) -> Segmentation:
    """Four rectangles on grass, as large as `size`."""
    height, width = size
    ids = np.full(size, 5)
    for number in range(4):
        y, x = divmod(number, 2)
        top, left = height // 10 + y * height // 2, width // 10 + x * width // 2
        ids[top : top + height // 3, left : left + width // 3] = number + 1
    image = np.full((*size, 3), 128, np.uint8)
    return Segmentation.from_ids(ids, CATEGORIES, labels=[0, 0, 1, 0, 2], image=image, **changes)


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


def test_drawing_has_the_size_of_the_image_and_leaves_the_image_alone():
    seg = large()
    before = seg.image.copy()
    image = seg.draw()
    assert image.size == (320, 240) and image.mode == "RGB"
    np.testing.assert_array_equal(seg.image, before)


def test_void_shows_the_image_itself():
    seg = large().filter(things=True)
    drawn = np.asarray(seg.draw(labels=False))
    assert (drawn[seg.ids == 0] == 128).all()


def test_fill_is_the_colour_mixed_with_the_image():
    seg = large()
    drawn = np.asarray(seg.draw(alpha=0.5, borders=False, labels=False)).astype(int)
    expected = (128 + segment_colors(seg.segments, seg.categories).astype(int)[seg.ids - 1]) / 2
    assert np.abs(drawn - expected).max() <= 1
    np.testing.assert_array_equal(seg.draw(alpha=0, borders=False, labels=False), seg.image)


def test_borders_stay_on_the_pixels_where_segments_meet():
    seg = small()
    plain, lined = (np.asarray(seg.draw(borders=b, labels=False)).astype(int) for b in (False, True))
    expected = [[False, True, True, False], [True, True, True, False], [False, True, False, True]]
    assert (plain != lined).any(-1).tolist() == expected  # grass leaves the line to the cats beside it
    assert (plain == lined).all(-1)[IDS == 0].all()


def test_inner_pixels_are_no_border():
    seg = large()
    plain, lined = (np.asarray(seg.draw(borders=b, labels=False)) for b in (False, True))
    changed = (plain != lined).any(-1)
    assert 0.005 < changed.mean() < 0.05


def test_names_are_written_where_there_is_room_and_only_there():
    seg = large()
    changed = (np.asarray(seg.draw(labels=True)) != np.asarray(seg.draw(labels=False))).any(-1)
    assert all(changed[seg.mask(i)].any() for i in (1, 2, 3, 4))
    tiny = large((20, 24))
    np.testing.assert_array_equal(tiny.draw(labels=True), tiny.draw(labels=False))


def test_names_are_left_out_by_default_where_they_say_little():
    two = Categories([Category(1, "nucleus", True, (200, 0, 0)), Category(2, "background", False, (0, 0, 0))])
    seg = Segmentation.from_ids(large().ids, two, labels=[0, 0, 0, 0, 1])
    np.testing.assert_array_equal(seg.draw(), seg.draw(labels=False))
    assert not np.array_equal(seg.draw(scores=True), seg.draw())


def test_every_thing_has_its_own_colour_and_stuff_its_categorys():
    rng = np.random.default_rng(0)
    ids = np.arange(1, 401).reshape(20, 20)
    seg = Segmentation.from_ids(ids, CATEGORIES, labels=np.append(rng.integers(0, 2, 399), 2))
    colors = segment_colors(seg.segments, seg.categories)
    assert tuple(colors[-1]) == CATEGORIES[2].color
    assert len(np.unique(colors[:-1], axis=0)) > 360
    assert (np.abs(np.diff(colors[:-1].astype(int), axis=0)).max(1) > 12).mean() > 0.95


def test_colours_by_id_do_not_depend_on_the_order_of_the_segments():
    ids = np.arange(1, 41).reshape(5, 8)
    rows = Segmentation.from_ids(ids, CATEGORIES, labels=[0] * 20 + [1] * 20).segments
    colors = segment_colors(rows, CATEGORIES, by_id=True)
    np.testing.assert_array_equal(segment_colors(rows[::-1], CATEGORIES, by_id=True), colors[::-1])
    assert len(np.unique(colors, axis=0)) == 40


def test_drawing_on_another_image_needs_its_size():
    with pytest.raises(ConfigError, match="does not fit an id map"):
        large().draw(np.zeros((3, 4, 3), np.uint8))
    with pytest.raises(ConfigError, match="alpha"):
        large().draw(alpha=2)


def test_a_notebook_shows_a_png():
    image = Image.open(io.BytesIO(large()._repr_png_()))
    assert image.format == "PNG" and image.size == (320, 240)


def test_stuff_leaves_the_line_to_a_thing_on_either_side():
    categories = Categories(
        [Category(1, "thing", True, (200, 0, 0)), Category(2, "stuff", False, (0, 0, 200))]
    )
    ids = np.full((20, 30), 2, np.int32)
    ids[:, 10:20] = 1  # a thing with stuff on its left and on its right
    seg = Segmentation.from_ids(ids, labels=[0, 1], segment_ids=[1, 2], categories=categories)
    seg.image = np.full((20, 30, 3), 128, np.uint8)
    plain, lined = (np.asarray(seg.draw(borders=b, labels=False)) for b in (False, True))
    changed = (plain != lined).any(-1)
    assert changed[:, [10, 19]].all() and changed.sum() == 40


def test_saving_never_writes_over_another_result_unless_its_name_is_given(tmp_path: Path) -> None:
    one = Segmentation.from_ids(np.ones((2, 3), np.int32), CATEGORIES, labels=[0])
    paths = [one.save(tmp_path) for _ in range(3)]
    assert [p.stem for p in paths] == ["segmentation", "segmentation_2", "segmentation_3"]
    for path in paths:
        row = json.loads(path.read_text(encoding="utf-8"))["annotations"][0]
        assert (tmp_path / row["file_name"]).is_file()
    assert one.save(tmp_path, "mine") == one.save(tmp_path, "mine") == tmp_path / "mine.json"
