"""Segments drawn over their image."""

import io

import numpy as np
import pytest
from PIL import Image

from maskconver.core.categories import Categories, Category
from maskconver.core.drawing import segment_colors
from maskconver.core.segmentation import Segmentation
from maskconver.errors import ConfigError

from .pets import CATEGORIES, IDS, large, small


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


def test_grey_and_pillow_images_are_drawn_on_and_floats_refused():
    seg, grey = large(), np.full(large().ids.shape, 100, np.uint8)
    expected = np.asarray(seg.draw(np.repeat(grey[..., None], 3, 2)))
    for image in (grey, Image.fromarray(grey)):
        np.testing.assert_array_equal(np.asarray(seg.draw(image)), expected)
    with pytest.raises(ConfigError, match="not on float"):
        seg.draw(grey / 255)


@pytest.mark.parametrize("kind", [np.int64, np.uint32, np.int16])
def test_values_beyond_a_byte_are_refused_and_not_wrapped(kind):
    seg = large()
    fitting = np.full(seg.ids.shape, 200, kind)
    expected = np.asarray(seg.draw(fitting.astype(np.uint8)))
    np.testing.assert_array_equal(np.asarray(seg.draw(fitting)), expected)
    with pytest.raises(ConfigError, match="values 4000 to 4000"):
        seg.draw(fitting * 20)
    if kind is np.int64:
        with pytest.raises(ConfigError, match="values -5"):
            seg.draw(fitting - 205)


def test_deep_pillow_images_are_stretched_as_arrays_are_and_masks_are_black_and_white():
    seg = large()
    deep = (np.arange(seg.ids.size).reshape(seg.ids.shape) * 7 % 30000).astype(np.uint16)
    expected = np.asarray(seg.draw(deep))
    for image in (Image.fromarray(deep), deep.astype(">u2")):
        np.testing.assert_array_equal(np.asarray(seg.draw(image)), expected)
    mask = deep > 15000
    expected = np.asarray(seg.draw(np.where(mask, np.uint8(255), np.uint8(0))))
    np.testing.assert_array_equal(np.asarray(seg.draw(mask)), expected)


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


def test_an_image_of_floats_is_refused_in_words() -> None:
    seg = Segmentation.from_ids(np.ones((2, 3), int), CATEGORIES, labels=[0])
    with pytest.raises(ConfigError, match="uint8 or uint16 images, not on float64"):
        seg.draw(np.zeros((2, 3, 3)))
