"""The kMaX-DeepLab merge against the official post-processing, pixel for pixel."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from maskconver.core.config import PostprocessConfig
from maskconver.core.proposals import Geometry
from maskconver.merge.kmax import merge_kmax

from .reference import case

pytestmark = pytest.mark.golden

# thresholds of things and stuff, overlap, exponent of the mask score, as published for each data set
THRESHOLDS = {
    "coco": (0.7, 0.5, 0.8, 1.0),
    "cityscapes": (0.5, 0.3, 0.9, 0.0),
    "ade20k": (0.4, 0.4, 0.8, 1.0),
}
IS_THING = np.array([True, False, True, False, True, False])


def config(data_set: str) -> PostprocessConfig:
    things, stuff, overlap, exponent = THRESHOLDS[data_set]
    return PostprocessConfig(
        rule="kmax",
        score_threshold=things,
        stuff_threshold=stuff,
        overlap_threshold=overlap,
        mask_exponent=exponent,
        mask_threshold=0.4,
        min_area=0.0,
    )


def scored(class_logits: NDArray) -> tuple[NDArray, NDArray]:
    exponential = np.exp(class_logits - class_logits.max(-1, keepdims=True))
    real = (exponential / exponential.sum(-1, keepdims=True))[:, :-1]
    return real.max(-1), real.argmax(-1)


def rows(labels: NDArray) -> list[list[int]]:
    return [[i, int(label), int(IS_THING[label])] for i, label in enumerate(labels, 1)]


@pytest.mark.parametrize("data_set", THRESHOLDS)
def test_panoptic_of_each_data_set(data_set: str) -> None:
    arrays = case("kmax/postprocess")
    scores, labels = scored(arrays["class_logits"])
    ids, first = merge_kmax(
        scores, labels, arrays["mask_logits"], is_thing=IS_THING, geometry=None, config=config(data_set)
    )
    np.testing.assert_array_equal(ids, arrays[f"{data_set}_panoptic"])
    assert rows(labels[first]) == arrays[f"{data_set}_segments"].tolist()


@pytest.mark.parametrize("sides", ["odd", "even"])
def test_from_the_padded_canvas_to_the_original_size(sides: str) -> None:
    arrays = case(f"kmax/inference_{sides}")
    scores, labels = scored(arrays["class_logits"])
    size, canvas = (tuple(arrays[k].tolist()) for k in ("out_hw", "input_hw"))
    scale = max(canvas) / max(size)
    geometry = Geometry(size, canvas, (scale, scale))
    ids, first = merge_kmax(
        scores, labels, arrays["mask_logits"], is_thing=IS_THING, geometry=geometry, config=config("coco")
    )
    np.testing.assert_array_equal(ids, arrays["panoptic"])
    assert rows(labels[first]) == arrays["segments"].tolist()
