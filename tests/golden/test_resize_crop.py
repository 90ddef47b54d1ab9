"""Resize, crop and pad with scale jitter against the reference's loader."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray

from maskconver.core.config import InputConfig
from maskconver.core.preprocess import normalize
from maskconver.training.augment.geometry import CropGeometry, crop_image, crop_map, resize_crop_geometry

from .reference import case

pytestmark = pytest.mark.golden

CANVAS = (48, 40)
# scale jitter and the two draws that place the crop
CASES: dict[str, tuple[float | None, tuple[float, float]]] = {
    "none": (None, (0.0, 0.0)),
    "half": (0.5, (0.3, 0.8)),
    "up": (1.5, (0.3, 0.8)),
    "tiny": (0.1, (0.5, 0.5)),
    "big": (2.9, (0.999, 0.01)),
}


@pytest.fixture(scope="module")
def arrays() -> dict[str, NDArray]:
    return case("augment/resize_crop")


def geometry_of(name: str, arrays: dict[str, NDArray]) -> CropGeometry:
    height, width = arrays["image"].shape[:2]
    jitter, place = CASES[name]
    return resize_crop_geometry((height, width), CANVAS, jitter=jitter, place=place)


def padded(part: NDArray, value: float) -> NDArray:
    result = np.full((*CANVAS, *part.shape[2:]), value, part.dtype)
    result[: part.shape[0], : part.shape[1]] = part
    return result


@pytest.mark.parametrize("name", CASES)
def test_size_scale_and_offset(name: str, arrays: dict[str, NDArray]) -> None:
    geometry = geometry_of(name, arrays)
    size, canvas, scale, offset = arrays[f"{name}_info"]
    assert arrays["image"].shape[:2] == tuple(size) and geometry.crop == tuple(canvas)
    np.testing.assert_allclose(np.array(geometry.scaled) / size, scale, rtol=1e-6)
    assert geometry.offset == tuple(offset)


@pytest.mark.parametrize("name", CASES)
def test_images(name: str, arrays: dict[str, NDArray]) -> None:
    part = crop_image(arrays["image"], geometry_of(name, arrays))
    np.testing.assert_allclose(padded(part, 0), arrays[f"{name}_raw"], atol=1e-4)
    normalized = normalize(part, InputConfig())
    np.testing.assert_allclose(padded(normalized, 0), arrays[f"{name}_normalized"], atol=1e-5)


def as_truncated(geometry: CropGeometry, arrays: dict[str, NDArray], name: str) -> CropGeometry:
    """The reference cuts a float32 product to whole pixels: its maps may be a pixel short of its images."""
    size, _, scale, _ = arrays[f"{name}_info"]
    height, width = (int(n) for n in (size * scale).astype(np.float32))
    return dataclasses.replace(geometry, scaled=(height, width))


@pytest.mark.parametrize("name", CASES)
def test_maps_but_for_the_pixel_the_reference_loses(name: str, arrays: dict[str, NDArray]) -> None:
    geometry, expected = geometry_of(name, arrays), arrays[f"{name}_category"]
    truncated = as_truncated(geometry, arrays, name)
    category = arrays["category"].astype(np.int32)
    np.testing.assert_array_equal(padded(crop_map(category, truncated), -1), expected)
    ours = padded(crop_map(category, geometry), -1)
    lost = [a - b for a, b in zip(geometry.scaled, truncated.scaled)]
    assert lost == {"up": [0, 1], "tiny": [1, 0]}.get(name, [0, 0])
    if lost == [0, 0]:
        np.testing.assert_array_equal(ours, expected)
    assert ((ours >= 0) | (expected < 0)).all()


def test_maps_cover_exactly_the_pixels_of_the_image(arrays: dict[str, NDArray]) -> None:
    for name in CASES:
        geometry = geometry_of(name, arrays)
        ids = crop_map(arrays["instance"].astype(np.int32), geometry)
        assert ids.shape == crop_image(arrays["image"], geometry).shape[:2] == geometry.covered
