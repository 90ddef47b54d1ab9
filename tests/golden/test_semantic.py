"""Semantic inference against the official kMaX-DeepLab post-processing."""

from __future__ import annotations

import numpy as np
import pytest

from maskconver.core.categories import Categories, Category
from maskconver.core.config import PostprocessConfig
from maskconver.core.proposals import Proposals
from maskconver.merge import postprocess
from maskconver.merge.kmax import merge_kmax
from maskconver.merge.semantic import semantic_maps, semantic_scores

from .reference import case

pytestmark = pytest.mark.golden


def test_class_scores_of_every_pixel() -> None:
    arrays = case("kmax/postprocess")
    classes, masks = arrays["class_logits"][None], arrays["mask_logits"][None]
    proposals = Proposals(np.zeros(classes.shape[:2]), np.zeros(classes.shape[:2], int), masks, classes)
    config, wanted = PostprocessConfig(rule="kmax"), arrays["semantic"]
    (scores,) = semantic_scores(proposals, config, len(wanted))
    np.testing.assert_allclose(scores, wanted, atol=1e-5)
    (labels,) = semantic_maps(proposals, config, len(wanted))
    np.testing.assert_array_equal(labels, scores.argmax(0))


@pytest.mark.parametrize(("name", "classes", "score"), [("segvoc", 21, 0.1), ("segcity", 19, 0.01)])
def test_category_maps_of_the_semantic_models(name: str, classes: int, score: float) -> None:
    arrays = case(f"maskconver/model_{name}_tiny")
    wanted = arrays["category"]
    masks = arrays["mask_logits"].transpose(2, 0, 1)[None]
    proposals = Proposals(arrays["scores"][None], arrays["classes"][None].astype(np.int64), masks)
    config = PostprocessConfig(
        score_threshold=score, overlap_threshold=0.0, min_area=16 / max(wanted.shape) ** 2, fill_label=0
    )
    categories = Categories([Category(i, str(i), False, (i, 0, 0)) for i in range(classes)])
    (found,) = postprocess(proposals, config, categories, output_size=wanted.shape)
    assert (found.category_map() == wanted).mean() > 0.999
    assert (found.ids > 0).all()


def test_area_limits_of_things_and_stuff_are_deeplab2_s() -> None:
    arrays, wanted = case("kmax/postprocess"), case("kmax/postprocess_dl2")["area_small_panoptic"]
    logits = arrays["class_logits"]
    values = np.exp(logits - logits.max(-1, keepdims=True))
    real = (values / values.sum(-1, keepdims=True))[:, :-1]
    scores, labels = real.max(-1), real.argmax(-1)
    is_thing = np.array([True, False, True, False, True, False])
    side = max(wanted.shape) ** 2
    config = PostprocessConfig(
        rule="kmax", score_threshold=0.4, stuff_threshold=0.4, overlap_threshold=0.8, mask_threshold=0.4,
        min_area=60 / side, stuff_min_area=100 / side,
    )  # fmt: skip
    ids, first = merge_kmax(
        scores, labels, arrays["mask_logits"], is_thing=is_thing, geometry=None, config=config
    )
    categories = np.append(labels[first], 255)[np.where(ids > 0, ids - 1, len(first))]
    np.testing.assert_array_equal(categories, wanted // 256)
    assert len(np.unique(ids[ids > 0])) == len(np.unique(wanted[wanted < 255 * 256]))
