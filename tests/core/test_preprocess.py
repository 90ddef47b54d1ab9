"""Images on their way to the network."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from maskconver.core.config import InputConfig
from maskconver.core.preprocess import (
    fitted_size,
    normalize,
    prepare,
    resize_bilinear,
    resize_nearest,
    stretch,
)

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize("size", [(7, 5), (40, 33), (1, 1), (20, 61), (20, 31)])
def test_bilinear_resize_equals_torch_without_antialias(size):
    torch = pytest.importorskip("torch")
    image = noise(20, 31, 3)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(image).permute(2, 0, 1)[None].float(), size, mode="bilinear", align_corners=False
    )[0].permute(1, 2, 0)
    np.testing.assert_allclose(resize_bilinear(image, size), expected, atol=255e-5)


@pytest.mark.parametrize("size", [(7, 5), (40, 33), (1, 1), (20, 61), (41, 62), (10, 15)])
def test_nearest_resize_equals_torch_nearest_exact(size):
    torch = pytest.importorskip("torch")
    ids = np.arange(20 * 31, dtype=np.int32).reshape(20, 31)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(ids)[None, None].double(), size, mode="nearest-exact"
    )
    np.testing.assert_array_equal(resize_nearest(ids, size), expected[0, 0].numpy())


def test_resizing_keeps_the_type_of_ids_and_takes_maps_without_channels():
    assert resize_nearest(np.zeros((4, 4), np.int32), (2, 3)).dtype == np.int32
    assert resize_bilinear(np.zeros((4, 4)), (2, 3)).shape == (2, 3)


def test_fit_scales_the_longer_side_and_pads_right_and_below_with_zeros():
    canvas, geometry = prepare(np.full((30, 60, 3), 255, np.uint8), InputConfig(size=(40, 40), **PLAIN))
    assert canvas.shape == (3, 40, 40) and canvas.dtype == np.float32
    assert (canvas[:, :20] == 1).all() and (canvas[:, 20:] == 0).all()
    assert geometry.image_size == (30, 60) and geometry.canvas_size == (40, 40)
    assert geometry.scale == (20 / 30, 40 / 60)


def test_padding_is_zero_after_normalisation():
    canvas, _ = prepare(np.full((10, 20, 3), 255, np.uint8), InputConfig(size=(20, 20)))
    assert (canvas[:, 10:] == 0).all() and (canvas[:, :10] > 2).all()


def test_fitted_size_rounds_halves_to_even():
    assert fitted_size((5, 10), (100, 9)) == (4, 9)  # 4.5
    assert fitted_size((7, 10), (100, 5)) == (4, 5)  # 3.5


@example(1, 1, 2, 2)
@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 700), st.integers(1, 700))
def test_a_fitted_image_lies_within_the_canvas_and_touches_its_border(height, width, rows, columns):
    scaled = fitted_size((height, width), (rows, columns))
    assert 1 <= scaled[0] <= rows and 1 <= scaled[1] <= columns
    missing = min(rows - scaled[0], columns - scaled[1])
    assert missing <= (1 if scaled == (height, width) else 0)  # at most one pixel smaller: it keeps its size


def test_native_keeps_the_pixels_and_pads_to_the_multiple():
    image = noise(33, 64, 3)
    canvas, geometry = prepare(image, InputConfig(mode="native", multiple=32, **PLAIN))
    assert canvas.shape == (3, 64, 64) and geometry.canvas_size == (64, 64) and geometry.scale == (1, 1)
    np.testing.assert_allclose(canvas[:, :33].transpose(1, 2, 0), image / 255, atol=1e-6)


def test_native_scales_by_its_factor_and_never_below_one_pixel():
    canvas, geometry = prepare(noise(1, 100, 3), InputConfig(mode="native", scale=0.25, multiple=8))
    assert canvas.shape == (3, 8, 32) and geometry.scale == (1.0, 0.25)


def test_one_pixel_images_are_fine():
    for mode in ("fit", "native"):
        canvas, geometry = prepare(noise(1, 1, 3), InputConfig(mode=mode, size=(32, 32), multiple=32))
        assert canvas.shape == (3, 32, 32) and geometry.image_size == (1, 1)
        assert np.isfinite(canvas).all()


def test_the_image_itself_is_not_changed():
    image = noise(20, 30, 3)
    before = image.copy()
    for config in (InputConfig(size=(20, 30)), InputConfig(size=(8, 8), stretch="percentile")):
        prepare(image, config)
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("percentiles", [(0.5, 99.8), (0.0, 100.0), (2.0, 90.0)])
def test_stretch_maps_the_percentiles_of_all_channels_together_to_zero_and_one(percentiles):
    image = np.random.default_rng(1).normal(60, 9, (40, 50, 3)).astype(np.uint8)
    low, high = np.percentile(image, percentiles)
    np.testing.assert_allclose(
        stretch(image, percentiles), np.clip((image - low) / (high - low), 0, 1), atol=1e-6
    )


def test_stretch_makes_a_dark_image_and_a_bright_one_alike():
    image = noise(30, 30, 3) // 4
    config = InputConfig(size=(30, 30), stretch="percentile")
    np.testing.assert_allclose(prepare(image, config)[0], prepare(image + np.uint8(90), config)[0], atol=1e-5)


def test_a_few_bright_spots_on_black_are_stretched_over_the_full_range():
    image = np.zeros((100, 100, 3), np.uint8)
    image[50, 50] = 40
    stretched = stretch(image, (0.5, 99.8))
    assert stretched[50, 50, 0] == 1 and stretched[0, 0, 0] == 0


@pytest.mark.parametrize("value", [0, 7, 255])
def test_a_flat_image_is_not_stretched(value):
    np.testing.assert_allclose(
        stretch(np.full((5, 5, 3), value, np.uint8), (0.5, 99.8)), value / 255, rtol=1e-6
    )


@pytest.mark.parametrize("stretching", ["none", "percentile"])
@pytest.mark.parametrize("size", [(7, 9), (16, 90), (60, 8), (60, 90), (33, 90), (61, 60), (130, 200)])
def test_the_canvas_is_the_stretched_resized_and_normalised_image(size, stretching):
    image = noise(60, 90, 3) // 2 + np.uint8(40)
    config = InputConfig(size=size, stretch=stretching)
    values = stretch(image, config.percentiles) if stretching == "percentile" else image / np.float32(255)
    expected = normalize(resize_bilinear(values, fitted_size((60, 90), size)), config, unit=True)
    canvas, _ = prepare(image, config)
    h, w = expected.shape[:2]
    np.testing.assert_allclose(canvas[:, :h, :w], expected.transpose(2, 0, 1), atol=2e-6)
    assert not canvas[:, h:].any() and not canvas[:, :, w:].any()


def test_images_that_do_not_lie_contiguous_in_memory_are_fine():
    image = noise(60, 91, 3)
    for view in (image[::2], image[:, ::-1], image.transpose(1, 0, 2), image[..., ::-1]):
        np.testing.assert_array_equal(
            prepare(view, InputConfig(size=(24, 24)))[0], prepare(view.copy(), InputConfig(size=(24, 24)))[0]
        )


@pytest.mark.parametrize("step", [2, 4, 8])
@pytest.mark.parametrize("size", [(160, 240), (157, 243), (153, 233)])
def test_a_reduced_image_lies_where_the_whole_one_does(size, step):
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    image = np.stack([y, x, y], -1).astype(np.uint8)
    ends = [[np.arange(0, n, step), n] for n in size]
    centres = [np.array([(a + min(a + step, n)) / 2 for a in starts]) for starts, n in ends]
    reduced = np.stack([*np.meshgrid(*centres, indexing="ij"), np.zeros([len(c) for c in centres])], -1)
    config = InputConfig(size=(18, 18), **PLAIN)
    expected, geometry = prepare(image, config)
    canvas, of_reduced = prepare(reduced.astype(np.uint8), config, whole=size)
    assert of_reduced == geometry
    inner = (slice(2), slice(1, 10), slice(1, 16))
    np.testing.assert_allclose(canvas[inner] * 255, expected[inner] * 255, atol=1.01)


@pytest.mark.parametrize("stretched", ["none", "percentile"])
@pytest.mark.parametrize("size", [(40, 50), (200, 31), (64, 48)])
def test_bytes_are_the_normalised_input_rounded_with_padding_of_the_mean_colour(size, stretched):
    image = noise(*size, 3) // 2 + 30
    config = InputConfig("fit", (64, 64), stretch=stretched)
    values, where = prepare(image, config)
    given, also = prepare(image, config, dtype=np.uint8)
    assert (given.shape, given.dtype, also) == ((64, 64, 3), np.uint8, where)
    exact = 255 * (values.transpose(1, 2, 0) * np.array(config.std) + np.array(config.mean))
    assert abs(given - exact).max() <= 0.5 + 1e-3
    assert given[-1, -1].tolist() in ([124, 116, 104], np.rint(exact[-1, -1]).tolist())


def test_bytes_of_an_image_that_fits_are_the_image():
    image = noise(64, 64, 3)
    np.testing.assert_array_equal(prepare(image, InputConfig("fit", (64, 64)), dtype=np.uint8)[0], image)
