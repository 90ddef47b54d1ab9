"""One sample to one training example."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch")

from maskconver.core.config import InputConfig
from maskconver.core.preprocess import prepare
from maskconver.core.segments import SegmentTable
from maskconver.data.dataset import Sample
from maskconver.training.augment.color import ColorConfig, jitter_color
from maskconver.training.augment.example import AugmentConfig, Example, train_example
from maskconver.training.augment.geometry import crop_image, crop_map, resize_crop_geometry
from maskconver.training.targets import TargetConfig

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
IS_THING = np.array([True, False])
EVERY_TURN = AugmentConfig(flip=0.5, flip_vertical=0.5, rotate90=True, scale=(0.4, 2.5), scale_law="log")


def sample(height: int = 30, width: int = 44) -> Sample:
    """A thing and two kinds of stuff, each painted in its id: red = 20·id."""
    ids = np.full((height, width), 2, np.int32)
    ids[:, width // 2 :] = 3
    ids[height // 4 : height // 2, width // 4 : (3 * width) // 4] = 1
    image = np.repeat((20 * ids)[..., None], 3, 2).astype(np.uint8)
    rows = SegmentTable(
        np.array([1, 2, 3], np.int32), np.array([0, 1, 1]), np.zeros(3, bool), np.zeros(3, np.int64)
    )
    return Sample(image, ids, rows, image_id="a")


def example(
    augment: AugmentConfig,
    seed: int = 0,
    source: Sample | None = None,
    config: InputConfig | None = None,
    targets: TargetConfig | None = None,
) -> Example:
    config = config or InputConfig(size=(48, 64), **PLAIN)  # type: ignore[arg-type]
    rng = np.random.default_rng(seed)
    return train_example(
        source or sample(), config, augment, targets=targets or TargetConfig(), is_thing=IS_THING, rng=rng
    )


@pytest.mark.parametrize("stretch", ["none", "percentile"])
def test_without_variation_the_image_is_the_one_inference_sees(stretch: str) -> None:
    config = InputConfig(size=(48, 64), stretch=stretch)  # type: ignore[arg-type]
    noise = np.random.default_rng(0).integers(0, 200, (30, 44, 3), np.uint8)
    source = dataclasses.replace(sample(), image=noise)
    canvas, geometry = prepare(noise, config)
    made = example(AugmentConfig.none(), source=source, config=config)
    np.testing.assert_allclose(made.image, canvas, atol=1e-5)
    height, width = (round(n * s) for n, s in zip(geometry.image_size, geometry.scale))
    inside = np.zeros((48, 64), bool)
    inside[:height, :width] = True
    np.testing.assert_array_equal(made.targets.valid, inside)
    assert made.image_id == "a"


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_image_and_regions_move_together(seed: int) -> None:
    made = example(EVERY_TURN, seed, targets=TargetConfig(islands_dilation="none"))
    image, regions = made.image, made.targets.regions
    assert image.shape == (3, 48, 64) and regions.shape == (48, 64)
    # stuff of one class is one region, painted 40 or 60; the thing is painted 20
    things = made.targets.region[made.targets.labels == 0]
    thing = np.isin(regions, things)
    same = np.ones_like(thing)  # pixels whose neighbourhood is all of one kind, untouched by interpolation
    for dy in range(-3, 4):
        for dx in range(-3, 4):
            same &= np.roll(thing, (dy, dx), (0, 1)) == thing
            same &= np.roll(regions > 0, (dy, dx), (0, 1)) == (regions > 0)
    same[:3] = same[-3:] = same[:, :3] = same[:, -3:] = False  # their neighbourhood was cut off
    red = image[0] * 255
    np.testing.assert_allclose(red[same & thing], 20, atol=0.01)
    assert (red[same & (regions > 0) & ~thing] > 39.9).all()
    assert not image[:, ~made.targets.valid].any()


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_an_example_depends_on_its_sample_and_generator_alone(seed: int) -> None:
    augment = dataclasses.replace(EVERY_TURN, color=ColorConfig(0.3, 0.3, 0.3, 0.1, 0.5, 0.5, 0.1))
    source = sample()
    before = source.image.copy(), source.ids.copy()
    one, other = example(augment, seed, source), example(augment, seed, source)
    np.testing.assert_array_equal(one.image, other.image)
    for field in dataclasses.fields(one.targets):
        np.testing.assert_array_equal(getattr(one.targets, field.name), getattr(other.targets, field.name))
    np.testing.assert_array_equal(source.image, before[0])
    np.testing.assert_array_equal(source.ids, before[1])


@pytest.mark.parametrize(("name", "axis"), [("flip", 2), ("flip_vertical", 1)])
def test_a_flip_mirrors_image_and_regions(name: str, axis: int) -> None:
    config = InputConfig(size=(30, 44), **PLAIN)  # type: ignore[arg-type]
    plain = example(AugmentConfig(flip=0.0), config=config)
    flipped = example(AugmentConfig(**{"flip": 0.0, name: 1.0}), config=config)  # type: ignore[arg-type]
    np.testing.assert_array_equal(flipped.image, np.flip(plain.image, axis))
    thing = [t.regions == t.region[0] for t in (plain.targets, flipped.targets)]
    np.testing.assert_array_equal(thing[1], np.flip(thing[0], axis - 1))


def test_a_turned_image_is_fitted_after_the_turn() -> None:
    augment = AugmentConfig(flip=0.0, rotate90=True)
    covered = {example(augment, seed).targets.valid.sum() for seed in range(12)}
    assert covered == {44 * 64, 33 * 48}  # 30×44 on 48×64: lying 44×64, standing 48×33


def test_the_log_law_halves_as_often_as_it_doubles() -> None:
    small = 0
    for seed in range(300):
        made = example(AugmentConfig(flip=0.0, scale=(0.25, 4.0), scale_law="log"), seed)
        small += not made.targets.valid.all()
    assert 110 < small < 190


def test_a_crop_may_have_another_size_than_the_canvas_the_image_is_fitted_to() -> None:
    made = example(AugmentConfig(crop=(16, 24), scale=(1.0, 1.0001)))
    assert made.image.shape == (3, 16, 24) and made.targets.valid.all()


def test_native_input_keeps_the_image_s_own_pixels() -> None:
    config = InputConfig(mode="native", size=(64, 64), **PLAIN)  # type: ignore[arg-type]
    made = example(AugmentConfig.none(), config=config)
    np.testing.assert_allclose(made.image[:, :30, :44], sample().image.transpose(2, 0, 1) / 255, atol=1e-6)
    assert made.targets.valid.sum() == 30 * 44


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (200, 3)])
def test_images_of_any_size_make_examples(size: tuple[int, int]) -> None:
    source = Sample(
        np.zeros((*size, 3), np.uint8),
        np.zeros(size, np.int32),
        SegmentTable(*np.zeros((4, 0), np.int64)),  # type: ignore[arg-type]
    )
    source.segments.crowd = source.segments.crowd.astype(bool)
    for seed in range(5):
        made = example(EVERY_TURN, seed, source)
        assert made.image.shape == (3, 48, 64) and np.isfinite(made.image).all()
        assert len(made.targets.labels) == 0


@given(
    size=st.tuples(st.integers(1, 60), st.integers(1, 60)), jitter=st.floats(0.1, 3.0),
    place=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)  # fmt: skip
@settings(max_examples=100, deadline=None)
def test_a_crop_lies_within_the_scaled_image_and_the_canvas(
    size: tuple[int, int], jitter: float, place: tuple[float, float]
) -> None:
    geometry = resize_crop_geometry(size, (32, 40), jitter=jitter, place=place)
    for axis in (0, 1):
        assert 1 <= geometry.covered[axis] <= geometry.crop[axis]
        assert 0 <= geometry.offset[axis] <= geometry.scaled[axis] - geometry.covered[axis]
    ids = np.arange(size[0] * size[1], dtype=np.int32).reshape(size)
    assert crop_map(ids, geometry).shape == crop_image(ids[..., None], geometry).shape[:2] == geometry.covered


@given(
    focus=st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)),
    place=st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)),
    jitter=st.floats(0.3, 3.0),
)
@settings(max_examples=100, deadline=None)
def test_a_crop_holds_the_point_it_is_asked_to_hold(
    focus: tuple[float, float], place: tuple[float, float], jitter: float
) -> None:
    geometry = resize_crop_geometry((50, 40), (64, 64), (24, 30), jitter=jitter, place=place, focus=focus)
    for axis in (0, 1):
        point = int(focus[axis] * geometry.scaled[axis])
        assert geometry.offset[axis] <= point < geometry.offset[axis] + geometry.covered[axis]


def test_crops_on_a_class_show_a_small_class_as_often_as_a_large_one() -> None:
    source = sample(60, 60)
    source.ids[:] = 2
    source.ids[50:54, 3:7] = 1  # 16 of 3,600 pixels
    config = InputConfig(size=(64, 64), **PLAIN)  # type: ignore[arg-type]
    seen = {}
    for share in (0.0, 1.0):
        augment = AugmentConfig(flip=0.0, crop=(16, 16), crop_on_class=share, scale=(0.999, 1.0))
        shown = [
            0 in example(augment, seed, dataclasses.replace(source), config).targets.labels
            for seed in range(200)
        ]
        seen[share] = sum(shown) / len(shown)
    assert seen[0.0] < 0.2
    assert 0.4 < seen[1.0] < 0.7


def test_crops_on_a_class_bear_images_without_segments() -> None:
    source = sample()
    source.ids[:] = 0
    nothing = dataclasses.replace(source, segments=source.segments[np.zeros(3, bool)])
    for one in (source, nothing):  # segments without a pixel, and none
        made = example(AugmentConfig(crop=(16, 16), crop_on_class=1.0), source=one)
        assert len(made.targets.labels) == 0


def test_a_crop_is_a_window_of_the_whole_resized_image() -> None:
    noise = np.random.default_rng(0).random((20, 30, 3)).astype(np.float32)
    whole = resize_crop_geometry((20, 30), (50, 75), jitter=1.0)
    part = dataclasses.replace(whole, offset=(11, 23), crop=(17, 19))
    np.testing.assert_array_equal(crop_image(noise, part), crop_image(noise, whole)[11:28, 23:42])
    ids = np.arange(600, dtype=np.int32).reshape(20, 30)
    np.testing.assert_array_equal(crop_map(ids, part), crop_map(ids, whole)[11:28, 23:42])


class TestColor:
    @staticmethod
    def image() -> np.ndarray:
        return np.random.default_rng(3).random((6, 7, 3)).astype(np.float32)

    def test_no_strength_no_change(self) -> None:
        np.testing.assert_array_equal(
            jitter_color(self.image(), ColorConfig(), np.random.default_rng(0)), self.image()
        )

    def test_inversion_is_the_negative(self) -> None:
        made = jitter_color(self.image(), ColorConfig(invert=1.0), np.random.default_rng(0))
        np.testing.assert_allclose(made, 1 - self.image(), atol=1e-6)

    def test_gamma_keeps_black_white_and_order(self) -> None:
        ramp = np.repeat(np.linspace(0, 1, 9, dtype=np.float32)[None, :, None], 3, 2)
        for seed in range(5):
            made = jitter_color(ramp, ColorConfig(gamma=1.0), np.random.default_rng(seed))
            assert made[0, 0, 0] == 0 and made[0, -1, 0] == 1 and (np.diff(made[0, :, 0]) > 0).all()

    @given(st.integers(0, 2**32 - 1))
    @settings(max_examples=30, deadline=None)
    def test_values_stay_in_range_and_depend_on_the_generator_alone(self, seed: int) -> None:
        config = ColorConfig(0.9, 0.9, 0.9, 0.5, 2.0, 0.5, 0.5)
        one, other = (jitter_color(self.image(), config, np.random.default_rng(seed)) for _ in range(2))
        np.testing.assert_array_equal(one, other)
        assert one.shape == (6, 7, 3) and one.dtype == np.float32
        assert (one >= 0).all() and (one <= 1).all()
