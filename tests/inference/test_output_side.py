"""`output_side`: the answer at input size, or at any other, and what is measured of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from maskconver.core.categories import Categories
from maskconver.core.config import PostprocessConfig
from maskconver.core.proposals import Geometry, Proposals
from maskconver.core.segmentation import Segmentation
from maskconver.data.open import open_dataset
from maskconver.data.synth.write import write_dataset
from maskconver.errors import ConfigError
from maskconver.inference.evaluation import evaluate
from maskconver.inference.predictor import Predictor
from maskconver.merge import postprocess
from tests.fakes import FakeRuntime, bright_image

CATEGORIES = Categories.from_json(
    [{"id": 1, "name": "a", "isthing": 1}, {"id": 2, "name": "b", "isthing": 0}]
)
GEOMETRY = Geometry((60, 80), (64, 64), (0.8, 0.8))  # the image covers 48×64 of the canvas


def halves() -> Proposals:
    """A thing on the left half of a canvas of 64 px, stuff on the right; masks at stride 8."""
    left = np.where(np.arange(8) < 4, 9.0, -9.0).astype(np.float32)
    masks = np.stack([np.tile(left, (8, 1)), np.tile(-left, (8, 1))])[None]
    return Proposals(np.array([[0.9, 0.8]], np.float32), np.array([[0, 1]]), masks, geometry=(GEOMETRY,))


@pytest.mark.parametrize(("side", "size"), [(None, (60, 80)), (64, (48, 64)), (160, (120, 160)), (1, (1, 1))])
def test_the_longer_side_of_the_answer_is_the_one_asked_for(side: int | None, size: tuple[int, int]) -> None:
    answer = postprocess(halves(), PostprocessConfig(min_area=0), CATEGORIES, output_side=side)[0]
    assert answer.ids.shape == size
    if side != 1:
        assert (answer.ids[:, : size[1] // 2] == 1).all() and (answer.ids[:, size[1] // 2 :] == 2).all()


def test_a_side_of_no_pixels_is_refused() -> None:
    with pytest.raises(ConfigError, match="output_side must be a number of pixels, at least 1, not 0"):
        postprocess(halves(), PostprocessConfig(), CATEGORIES, output_side=0)


def test_a_side_that_no_memory_holds_is_refused():
    with pytest.raises(ConfigError, match="choose a smaller one"):
        Predictor(FakeRuntime(), output_side=2**40)(bright_image())


def test_a_resized_answer_keeps_its_segments_and_measures_them_anew() -> None:
    answer = postprocess(halves(), PostprocessConfig(min_area=0), CATEGORIES, output_side=8)[0]
    large = answer.resized((60, 80))
    assert large.ids.shape == (60, 80) and [s.area for s in large.segments] == [2400, 2400]
    assert large.segments[1].bbox == (40, 0, 40, 60)
    ids = np.zeros((9, 9), np.int32)
    ids[0, 0], ids[4, 4] = 1, 2
    small = Segmentation.from_ids(ids, CATEGORIES, labels=[0, 0]).resized((1, 1))
    assert [(s.id, s.area) for s in small.segments] == [(2, 1)]


def test_an_image_comes_with_its_answer_at_the_same_size() -> None:
    answer = Predictor(FakeRuntime(), output_side=30)(bright_image())
    assert answer.ids.shape == (20, 30) and answer.image is not None and answer.image.shape == (20, 30, 3)
    assert answer.draw().size == (30, 20)


def test_figures_are_of_the_answer_at_the_size_of_the_ground_truth(tmp_path: Path) -> None:
    write_dataset(tmp_path, "cells", 2, size=(96, 128))
    runtime = FakeRuntime(size=(128, 128))
    runtime.categories = (dataset := open_dataset(tmp_path)).categories
    coarse, fine = (
        evaluate(Predictor(runtime, output_side=side), dataset).total.miou.compute().miou for side in (4, 128)
    )
    assert coarse < fine
