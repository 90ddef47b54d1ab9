"""Images of one and of four channels: from the file to the canvas a model trains on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskconver.core.config import RGB_MEAN, InputConfig
from maskconver.core.preprocess import prepare
from maskconver.data.open import open_dataset
from maskconver.data.synth.write import write_dataset
from maskconver.errors import ConfigError, ImageError
from maskconver.inference.inputs import as_image
from maskconver.io.images import read_image

RNG = np.random.default_rng(0)
RGBA = RNG.integers(0, 256, (5, 7, 4), np.uint8)
GREY = RNG.integers(0, 256, (5, 7), np.uint8)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_the_four_channels_of_an_image_are_read_as_they_are(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    Image.fromarray(RGBA).save(path, lossless=True, exact=True)
    np.testing.assert_array_equal(read_image(path, channels=4), RGBA)
    np.testing.assert_array_equal(read_image(path), RGBA[..., :3])


def test_four_inks_are_four_channels(tmp_path: Path) -> None:
    Image.fromarray(RGBA, "CMYK").save(tmp_path / "a.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif", channels=4), RGBA)


def test_a_grey_image_is_read_as_one_channel_and_a_coloured_one_as_its_luma(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png", channels=1), GREY[..., None])
    Image.fromarray(RGBA[..., :3]).save(tmp_path / "rgb.png")
    red, green, blue = RGBA[..., :3].astype(float).transpose(2, 0, 1)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    np.testing.assert_allclose(read_image(tmp_path / "rgb.png", channels=1)[..., 0], luma, atol=1)


def test_an_image_of_16_bits_is_one_channel_too(tmp_path: Path) -> None:
    Image.fromarray(GREY.astype(np.uint16) * 257).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", channels=1), GREY[..., None])


def test_an_image_of_three_channels_is_refused_where_four_are_needed(tmp_path: Path) -> None:
    Image.fromarray(RGBA[..., :3]).save(tmp_path / "a.png")
    with pytest.raises(
        ImageError, match=r"a.png: has 3 channels \(RGB\), the model takes 4; .*in_channels=3"
    ):
        read_image(tmp_path / "a.png", channels=4)
    with pytest.raises(ImageError, match="an image of 3 channels, but the model takes 4"):
        as_image(RGBA[..., :3], channels=4)


def test_what_a_notebook_has_in_hand_comes_with_the_channels_of_the_model() -> None:
    many = RNG.integers(0, 256, (4, 6, 7), np.uint8)
    np.testing.assert_array_equal(as_image(many, channels=7)[0], many)
    np.testing.assert_array_equal(as_image(GREY, channels=1)[0], GREY[..., None])
    np.testing.assert_array_equal(as_image(Image.fromarray(RGBA), channels=4)[0], RGBA)
    np.testing.assert_array_equal(as_image(RGBA, channels=1)[0], as_image(RGBA[..., :3], channels=1)[0])


@pytest.mark.parametrize("channels", [1, 4, 6])
def test_every_channel_is_normalised_by_its_own_mean(channels: int) -> None:
    config = InputConfig(
        size=(8, 8), mean=tuple(0.1 * (c + 1) for c in range(channels)), std=(0.5,) * channels
    )
    image = RNG.integers(0, 256, (8, 8, channels), np.uint8)
    canvas, _ = prepare(image, config)
    np.testing.assert_allclose(canvas.transpose(1, 2, 0), (image / 255 - config.mean) / 0.5, atol=1e-5)


def test_an_image_of_other_channels_than_the_model_s_names_the_fix() -> None:
    with pytest.raises(ConfigError, match=r"shape \(8, 8, 3\), but the model takes 1 channels .*`in_ch"):
        prepare(np.zeros((8, 8, 3), np.uint8), InputConfig(mean=(0.5,), std=(0.2,)))


def test_the_default_mean_follows_the_number_of_channels() -> None:
    assert InputConfig().for_channels(1).mean == (round(sum(RGB_MEAN) / 3, 4),)
    four = InputConfig().for_channels(4)
    assert four.mean[:3] == RGB_MEAN and four.channels == len(four.std) == 4
    assert InputConfig(mean=(0.5,) * 3, std=(0.2,) * 3).for_channels(2).mean == (0.5, 0.5)
    own = InputConfig(mean=(0.1,), std=(0.2,))
    assert own.for_channels(1) is own
    with pytest.raises(ConfigError, match=r"takes 4 channels, but input\.mean has 1 values"):
        own.for_channels(4)


@pytest.mark.parametrize("channels", [1, 4])
def test_every_variation_of_training_takes_any_channels(channels: int, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from maskconver.training.augment.autoaugment import OPERATIONS
    from maskconver.training.augment.color import ColorConfig, jitter_color
    from maskconver.training.augment.copy_paste import CopyPasteConfig
    from maskconver.training.augment.example import AugmentConfig, train_example
    from maskconver.training.targets import TargetConfig

    write_dataset(tmp_path, "cells", 2, size=(32, 40))
    dataset = open_dataset(tmp_path, channels=1)
    first, second = dataset[0], dataset[1]
    for sample in (first, second):
        sample.image = np.repeat(sample.image, channels, 2)
    color = ColorConfig(0.3, 0.3, 0.3, 0.1, 0.2, 0.5, 0.1)
    every = [[(name, 1.0, 5.0)] for name in OPERATIONS]
    paste = CopyPasteConfig(probability=1.0)
    augment = AugmentConfig(scale=(0.5, 2), rotate90=True, color=color, autoaugment=every, copy_paste=paste)
    config = InputConfig(size=(32, 32)).for_channels(channels)
    is_thing = dataset.categories.is_thing
    for seed in range(30):
        rng = np.random.default_rng(seed)
        made = train_example(
            first, config, augment, targets=TargetConfig(), is_thing=is_thing, rng=rng, partner=second
        )
        assert made.image.shape == (channels, 32, 32) and np.isfinite(made.image).all()
    image = RNG.random((8, 8, channels), np.float32)
    hue = jitter_color(image, ColorConfig(saturation=0.9, hue=0.4), np.random.default_rng(0))
    np.testing.assert_array_equal(hue[..., 3:], image[..., 3:])  # of RGB alone; grey has neither
    assert np.array_equal(hue, image) == (channels == 1)


def test_a_data_set_gives_the_channels_it_is_asked_for(tmp_path: Path) -> None:
    write_dataset(tmp_path, "cells", 1, size=(32, 40))
    assert open_dataset(tmp_path)[0].image.shape == (32, 40, 3)
    assert open_dataset(tmp_path, channels=1)[0].image.shape == (32, 40, 1)
