"""Semantic maps from scored masks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from maskconver.core.categories import Categories, Category
from maskconver.core.config import PostprocessConfig
from maskconver.core.proposals import Geometry, Proposals
from maskconver.core.segmentation import Segmentation
from maskconver.errors import ConfigError, MaskconverError
from maskconver.merge import postprocess, semantic
from maskconver.merge.instances import instances
from maskconver.merge.semantic import semantic_maps, semantic_scores


def halves(scores: tuple[float, float] = (0.6, 0.3)) -> Proposals:
    """Class 2 on the left half, class 0 on the right, each weakly beyond its edge."""
    masks = np.full((1, 2, 4, 8), -1.0, np.float32)
    masks[0, 0, :, :4] = masks[0, 1, :, 4:] = 3
    return Proposals(np.array([scores], np.float32), np.array([[2, 0]]), masks)


def test_every_pixel_has_the_class_of_the_largest_sum() -> None:
    (labels,) = semantic_maps(halves(), PostprocessConfig(), 3)
    assert labels.shape == (4, 8) and labels.dtype == np.int32
    assert (labels[:, :4] == 2).all() and (labels[:, 4:] == 0).all()


@pytest.mark.parametrize(("exponent", "label"), [(1.0, 2), (0.0, 0)])
def test_scores_count_as_far_as_their_exponent_says(exponent: float, label: int) -> None:
    masks = np.array([[[[0.5]], [[1.0]]]], np.float32)
    proposals = Proposals(np.array([[0.9, 0.2]], np.float32), np.array([[2, 0]]), masks)
    config = PostprocessConfig(class_exponent=exponent)
    assert semantic_maps(proposals, config, 3)[0].item() == label


def test_proposals_of_one_class_add_up() -> None:
    proposals = halves((0.5, 0.4))
    proposals.mask_logits[:] = 0
    twice = Proposals(np.array([[0.5, 0.4, 0.4]]), np.array([[2, 0, 0]]), np.zeros((1, 3, 4, 8), np.float32))
    assert (semantic_maps(proposals, PostprocessConfig(), 3)[0] == 2).all()
    assert (semantic_maps(twice, PostprocessConfig(), 3)[0] == 0).all()


def test_the_answer_has_the_size_of_the_image_or_the_one_that_is_given() -> None:
    proposals = halves()
    proposals.geometry = (Geometry((20, 30), (32, 64), (1.0, 1.0)),)
    assert semantic_maps(proposals, PostprocessConfig(), 3)[0].shape == (20, 30)
    assert semantic_maps(halves(), PostprocessConfig(), 3, output_size=(9, 5))[0].shape == (9, 5)


@pytest.mark.parametrize("rule", ["maskconver", "kmax"])
def test_bands_of_rows_change_nothing(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    classes = rng.normal(0, 2, (1, 5, 4)).astype(np.float32)
    masks = rng.normal(0, 4, (1, 5, 7, 9)).astype(np.float32)
    proposals = Proposals(np.zeros((1, 5)), np.zeros((1, 5), int), masks, classes)
    config = PostprocessConfig(rule=rule)  # type: ignore[arg-type]
    (whole,) = semantic_scores(proposals, config, 3, output_size=(21, 18))
    monkeypatch.setattr(semantic, "BAND_VALUES", 200)
    (banded,) = semantic_scores(proposals, config, 3, output_size=(21, 18))
    np.testing.assert_allclose(banded, whole, atol=1e-6)


def test_masks_read_the_sigmoid_of_the_panoptic_result() -> None:
    masks = np.array([2.0, 1.0], np.float32).reshape(1, 2, 1, 1)  # sigmoid 0.88, 0.73; hard 0.83, 0.67
    proposals = Proposals(np.array([[0.5, 0.61]], np.float32), np.array([[0, 1]]), masks)
    soft, hard = PostprocessConfig(min_area=0), PostprocessConfig(min_area=0, hard_sigmoid=True)
    np.testing.assert_allclose(semantic_scores(proposals, soft, 2)[0].ravel(), [0.4404, 0.4459], atol=1e-4)
    np.testing.assert_allclose(semantic_scores(proposals, hard, 2)[0].ravel(), [0.4167, 0.4067], atol=1e-4)
    (pairs,) = instances(proposals, hard, np.array([True, True]))
    np.testing.assert_allclose(pairs.scores, [0.4167, 0.4067], atol=1e-4)


@pytest.mark.parametrize("rule", ["maskconver", "kmax"])
def test_without_any_proposal_there_is_an_answer(rule: str) -> None:
    nothing = Proposals(
        np.zeros((1, 0), np.float32), np.zeros((1, 0), int), np.zeros((1, 0, 4, 8), np.float32)
    )
    config = PostprocessConfig(rule=rule)  # type: ignore[arg-type]
    assert (semantic_maps(nothing, config, 3)[0] == 0).all()
    assert instances(nothing, config, np.array([True, True]))[0].masks.shape == (0, 4, 8)


def test_values_that_are_not_finite_are_refused() -> None:
    proposals = halves()
    proposals.mask_logits[0, 0, 0, 0] = np.nan
    with pytest.raises(MaskconverError, match="NaN"):
        semantic_maps(proposals, PostprocessConfig(), 3)


class TestFillLabel:
    CATEGORIES = Categories([Category(1, "road", False, (9, 9, 9)), Category(2, "car", True, (200, 0, 0))])

    def answer(self, label: int, fill: int | None) -> Segmentation:
        masks = np.full((1, 1, 4, 6), -4.0, np.float32)
        masks[0, 0, :, :3] = 4
        proposals = Proposals(np.array([[0.9]], np.float32), np.array([[label]]), masks)
        config = PostprocessConfig(mask_threshold=0.5, min_area=0.0, fill_label=fill)
        return postprocess(proposals, config, self.CATEGORIES)[0]

    def test_what_no_segment_claims_is_of_the_label(self) -> None:
        assert (self.answer(1, None).category_map()[:, 3:] == -1).all()
        filled = self.answer(1, 0)
        assert (filled.category_map()[:, 3:] == 0).all() and (filled.category_map()[:, :3] == 1).all()
        assert filled.segments[1].score == 0

    def test_it_joins_the_segment_of_its_class(self) -> None:
        filled = self.answer(0, 0)
        assert len(filled) == 1 and (filled.ids == 1).all() and filled.segments[0].score > 0.8

    def test_its_own_proposals_need_not_compete(self) -> None:
        """A background that is sure of every pixel leaves nothing to a faint thing."""
        masks = np.full((1, 2, 4, 6), 4, np.float32)
        masks[0, 1, :, 3:] = -4
        proposals = Proposals(np.array([[0.9, 0.6]], np.float32), np.array([[0, 1]]), masks)
        config = PostprocessConfig(mask_threshold=0.5, min_area=0.0, fill_label=0)
        (before,) = postprocess(proposals, config, self.CATEGORIES)
        (after,) = postprocess(proposals, replace(config, fill_only=True), self.CATEGORIES)
        assert (before.category_map() == 0).all()
        assert (after.category_map()[:, :3] == 1).all() and (after.category_map()[:, 3:] == 0).all()
        with pytest.raises(ConfigError, match="fill_only"):
            postprocess(proposals, PostprocessConfig(fill_only=True), self.CATEGORIES)

    @pytest.mark.parametrize("fill", [1, 2, -1])
    def test_things_and_labels_that_do_not_exist_are_refused(self, fill: int) -> None:
        with pytest.raises(ConfigError, match="fill_label"):
            self.answer(0, fill)
