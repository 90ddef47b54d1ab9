"""Normalising and fitting an image equal the reference's loader."""

from pathlib import Path

import numpy as np
import pytest

from maskconver.core.config import InputConfig
from maskconver.core.preprocess import normalize, prepare, resize_bilinear

pytestmark = pytest.mark.golden

FOLDER = Path(__file__).parent / "cases" / "augment"


def test_normalised_values():
    data = np.load(FOLDER / "normalize.npz")
    np.testing.assert_allclose(normalize(data["image"], InputConfig()), data["normalized"], atol=1e-5)


def test_an_image_fitted_to_the_canvas_without_jitter():
    data = np.load(FOLDER / "resize_crop.npz")
    canvas, geometry = prepare(data["image"], InputConfig(size=(48, 40)))
    np.testing.assert_allclose(canvas.transpose(1, 2, 0), data["none_normalized"], atol=1e-5)
    image, desired, scale, offset = data["none_info"]
    assert geometry.image_size == tuple(image) and geometry.canvas_size == tuple(desired)
    np.testing.assert_allclose(geometry.scale, scale, rtol=1e-6)
    assert tuple(offset) == (0, 0)


def test_raw_values_after_resizing():
    data = np.load(FOLDER / "resize_crop.npz")
    _, geometry = prepare(data["image"], InputConfig(size=(48, 40)))
    height, width = (round(s * f) for s, f in zip(geometry.image_size, geometry.scale))
    np.testing.assert_allclose(
        resize_bilinear(data["image"], (height, width)), data["none_raw"][:height, :width], atol=1e-4
    )
    assert (data["none_raw"][height:] == 0).all() and (data["none_raw"][:, width:] == 0).all()
