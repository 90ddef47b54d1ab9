"""Instances from scored masks: the best (mask, class) pairs."""

from __future__ import annotations

import numpy as np
import pytest

from maskconver.core.config import PostprocessConfig
from maskconver.core.proposals import Geometry, Proposals, without_non_finite
from maskconver.errors import MaskconverError
from maskconver.merge import semantic
from maskconver.merge.instances import instances

THINGS = np.array([True, True, False])
SIGMOID = PostprocessConfig(rule="kmax", mask_activation="sigmoid")


def logit(p: float | np.ndarray) -> np.ndarray:
    return np.log(np.asarray(p) / (1 - np.asarray(p))).astype(np.float32)


def two_masks() -> Proposals:
    """A mask that may be class 0 or 1, and one of stuff; both cover the middle."""
    masks = np.full((1, 2, 4, 6), 0.1)
    masks[0, 0, :, :4], masks[0, 1, :, 2:] = 0.9, 0.8
    classes = np.log(np.array([[[0.5, 0.3, 0.1, 0.1], [0.2, 0.05, 0.7, 0.05]]], np.float32))
    return Proposals(np.array([[0.5, 0.7]]), np.array([[0, 2]]), logit(masks), classes)


def test_a_mask_may_be_of_several_classes_and_masks_may_overlap() -> None:
    (found,) = instances(two_masks(), SIGMOID, THINGS)
    assert found.labels.tolist() == [0, 1, 0, 1]
    np.testing.assert_allclose(found.scores, [0.5 * 0.9, 0.3 * 0.9, 0.2 * 0.8, 0.05 * 0.8], rtol=1e-5)
    assert found.masks[0, :, :4].all() and not found.masks[0, :, 4:].any()
    assert found.masks[2, :, 2:].all() and (found.masks[0] & found.masks[2]).any()


def test_stuff_takes_part_in_the_choice_of_the_best_and_is_left_out_then() -> None:
    (found,) = instances(two_masks(), SIGMOID, THINGS, top=2)  # 0.7 of stuff and 0.5
    assert found.labels.tolist() == [0]


def test_pairs_without_a_pixel_are_left_out() -> None:
    proposals = two_masks()
    proposals.mask_logits[0, 0] = -9
    (found,) = instances(proposals, SIGMOID, THINGS)
    assert found.labels.tolist() == [0, 1] and found.masks[:, :, 2:].all()


def test_of_a_softmax_a_pixel_is_the_masks_where_it_beats_all_others_together() -> None:
    proposals = two_masks()
    proposals.mask_logits[:] = 0
    proposals.mask_logits[0, 0, :2] = 1
    (found,) = instances(proposals, PostprocessConfig(rule="kmax"), THINGS)
    assert found.labels.tolist() == [0, 1] and found.masks[0, :2].all() and not found.masks[0, 2:].any()


def test_without_class_logits_a_proposal_is_of_its_own_class() -> None:
    own = two_masks()
    (found,) = instances(Proposals(own.scores, np.array([[0, 1]]), own.mask_logits), SIGMOID, THINGS)
    assert found.labels.tolist() == [1, 0]
    np.testing.assert_allclose(found.scores, [0.7 * 0.8, 0.5 * 0.9], rtol=1e-5)


def test_bands_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    proposals = two_masks()
    proposals.geometry = (Geometry((20, 30), (16, 24), (0.8, 0.8)),)
    (whole,) = instances(proposals, SIGMOID, THINGS)
    monkeypatch.setattr(semantic, "BAND_VALUES", 200)
    (banded,) = instances(proposals, SIGMOID, THINGS)
    assert whole.masks.shape[1:] == (20, 30)
    np.testing.assert_array_equal(whole.masks, banded.masks)
    np.testing.assert_allclose(whole.scores, banded.scores, rtol=1e-6)


def test_values_that_are_not_finite_are_refused_or_dropped() -> None:
    proposals = two_masks()
    proposals.mask_logits[0, 0, 0, 0] = np.nan
    with pytest.raises(MaskconverError, match="NaN"):
        instances(proposals, SIGMOID, THINGS)
    (found,) = instances(without_non_finite(proposals), SIGMOID, THINGS)
    assert found.labels.tolist() == [0, 1] and found.scores.max() < 0.2


def test_at_another_size_masks_keep_their_pixels() -> None:
    (found,) = instances(two_masks(), SIGMOID, THINGS)
    larger = found.resized((8, 12))
    assert larger.masks.shape == (4, 8, 12) and larger.masks[0, :, :8].all()
    assert found.resized((4, 6)) is found
