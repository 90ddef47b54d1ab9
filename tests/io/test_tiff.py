"""TIFF files of any number of channels, of 8 and 16 bits: all layouts are read, and faults are one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskconver.errors import ImageError
from maskconver.inference.inputs import as_image
from maskconver.io.images import image_size, read_image, read_reduced

tifffile = pytest.importorskip("tifffile")
RNG = np.random.default_rng(0)
BANDS = RNG.integers(0, 65536, (9, 7, 6), np.uint16)


@pytest.mark.parametrize("layout", ["beside", "planes", "pages", "deflate", "big"])
def test_every_layout_of_six_channels_is_read(layout: str, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    planes = BANDS.transpose(2, 0, 1)
    if layout == "pages":
        tifffile.imwrite(path, planes, photometric="minisblack")
    elif layout == "planes":
        tifffile.imwrite(path, planes, photometric="minisblack", planarconfig="separate")
    else:
        options = {"deflate": {"compression": "deflate"}, "big": {"bigtiff": True}}.get(layout, {})
        tifffile.imwrite(path, BANDS, photometric="minisblack", planarconfig="contig", **options)
    np.testing.assert_array_equal(read_image(path, channels=6, bits=16), BANDS)
    np.testing.assert_array_equal(read_reduced(path.read_bytes(), lambda s: s, channels=6, bits=16)[0], BANDS)
    eight = np.floor(BANDS * 255.0 / 65535 + 0.5)
    np.testing.assert_array_equal(read_image(path, channels=6), eight)
    np.testing.assert_array_equal(as_image(BANDS, channels=6)[0], eight)
    assert image_size(path) == (9, 7)


def test_another_number_of_channels_is_refused_in_one_line(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", BANDS, photometric="minisblack", planarconfig="contig")
    with pytest.raises(ImageError, match=r"a.tif: has 6 channels, the model takes 5; .*`in_channels=6`"):
        read_image(tmp_path / "a.tif", channels=5)
    with pytest.raises(ImageError, match=r"has 6 channels, the model takes 3"):
        read_image(tmp_path / "a.tif")
    Image.fromarray(BANDS[..., :3].astype(np.uint8)).save(tmp_path / "b.png")
    with pytest.raises(ImageError, match=r"b.png: has 3 channels \(RGB\), the model takes 6"):
        read_image(tmp_path / "b.png", channels=6)
    tifffile.imwrite(tmp_path / "c.tif", np.zeros((2, 3, 4, 5), np.uint8), photometric="minisblack")
    with pytest.raises(ImageError, match=r"c.tif: has 1 channel, the model takes 7"):
        read_image(tmp_path / "c.tif", channels=7)


def test_floats_and_compressed_planes_that_pillow_cannot_read(tmp_path: Path) -> None:
    values = RNG.random((9, 7, 3), np.float32)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), np.floor(values * 255.0 + 0.5))
    rgb = BANDS[..., :3].transpose(2, 0, 1)
    tifffile.imwrite(
        tmp_path / "b.tif", rgb, photometric="rgb", planarconfig="separate", compression="deflate"
    )
    np.testing.assert_array_equal(read_image(tmp_path / "b.tif", bits=16), BANDS[..., :3])


def test_the_white_level_is_that_of_colours_too(tmp_path: Path) -> None:
    twelve = BANDS[..., :3] >> 4
    tifffile.imwrite(tmp_path / "a.tif", twelve, photometric="rgb")
    expected = np.floor(twelve * 65535.0 / 4095 + 0.5)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif", bits=16, white_level=4095), expected)
    assert read_image(tmp_path / "a.tif", white_level=4095).max() > 250


def test_bytes_become_16_bits_without_loss(tmp_path: Path) -> None:
    grey = RNG.integers(0, 256, (5, 7), np.uint8)
    Image.fromarray(grey).save(tmp_path / "a.png")
    pixels = read_image(tmp_path / "a.png", channels=1, bits=16)
    assert pixels.dtype == np.uint16
    np.testing.assert_array_equal(pixels[..., 0], grey * np.uint16(257))


@pytest.mark.parametrize("damage", ["cut", "empty"])
def test_a_damaged_tiff_is_one_line(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, BANDS, photometric="minisblack", planarconfig="contig")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] if damage == "cut" else data[:8])
    with pytest.raises(ImageError, match=r"a\.tif: [^\n]+$"):
        read_image(path, channels=6)


def test_a_model_of_six_channels_of_16_bits_is_trained_and_used(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    import maskconver as mc
    from maskconver.data.synth.write import write_dataset
    from maskconver.training.augment.copy_paste import CopyPasteConfig
    from maskconver.training.augment.example import AugmentConfig, train_example
    from maskconver.training.targets import TargetConfig

    write_dataset(tmp_path, "cells", 2, size=(32, 40))
    for path in (tmp_path / "images" / "train").iterdir():
        grey = np.asarray(Image.open(path).convert("L")).astype(np.uint16) * 16
        bands = np.stack([grey + k for k in range(6)])
        tifffile.imwrite(path.with_suffix(".tif"), bands, photometric="minisblack")
        path.unlink()
    content = json.loads((tmp_path / "panoptic_train.json").read_text())
    for image in content["images"]:
        image["file_name"] = str(Path(image["file_name"]).with_suffix(".tif"))
    (tmp_path / "panoptic_train.json").write_text(json.dumps(content))
    small = {"filters": 16, "low_level_filters": 16, "embedding_dim": 16}
    form = {"size": [32, 32], "bits": 16, "white_level": 4095.0}
    dataset = mc.data.open_dataset(tmp_path)
    model = mc.create_model(
        "maskconver_mobile_256", categories=dataset.categories, in_channels=6, input=form, **small
    )
    dataset.read_for(model.input)
    sample = dataset[0]
    assert sample.image.shape == (32, 40, 6) and sample.image.dtype == np.uint16
    raw = tifffile.imread(dataset.image_path(0)).transpose(1, 2, 0)
    np.testing.assert_allclose(sample.image, raw * 65535.0 / 4095, atol=0.5)  # 4095 is white
    augment = AugmentConfig(scale=(0.5, 2), copy_paste=CopyPasteConfig(probability=1.0))
    draws = np.random.default_rng(0)
    is_thing = dataset.categories.is_thing
    made = train_example(
        sample,
        model.input,
        augment,
        targets=TargetConfig(),
        is_thing=is_thing,
        rng=draws,
        partner=dataset[1],
    )
    assert made.image.shape == (6, 32, 32)
    assert 0 < np.ptp(made.image) < 10
    mc.save(model, tmp_path / "model.safetensors")
    predictor = mc.Predictor(tmp_path / "model.safetensors")
    result = predictor(dataset.image_path(0))
    assert result.image is not None and result.image.dtype == np.uint16
    assert result.draw().size == (40, 32)


@pytest.mark.slow
def test_a_model_of_six_channels_of_16_bits_is_exported(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    import torch

    import maskconver as mc

    torch.manual_seed(0)
    tifffile.imwrite(tmp_path / "a.tif", BANDS.transpose(2, 0, 1), photometric="minisblack")
    small = {"filters": 16, "low_level_filters": 16, "embedding_dim": 16}
    model = mc.create_model(
        "maskconver_mobile_256",
        categories=mc.Categories.coco(),
        in_channels=6,
        input={"size": [32, 32], "bits": 16},
        **small,
    )
    mc.export_model(model.eval(), tmp_path / "model.onnx")  # compares the file with the model
    answers = [mc.Predictor(m)(tmp_path / "a.tif").ids for m in (model, tmp_path / "model.onnx")]
    np.testing.assert_array_equal(*answers)


def test_of_channels_in_pages_the_broken_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as file:
        for k in range(6):
            file.write(BANDS[..., k], photometric="minisblack", compression="zlib", metadata=None)
    assert read_image(path, channels=6, bits=16).shape[2] == 6
    with tifffile.TiffFile(path) as file:
        offset = file.pages[3].dataoffsets[0]
    data = bytearray(path.read_bytes())
    data[offset : offset + 8] = bytes(8)
    path.write_bytes(data)
    with pytest.raises(ImageError, match=r"a\.tif: damaged or cut off in page 4 \("):
        read_image(path, channels=6, bits=16)
