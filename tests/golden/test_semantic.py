"""Semantic inference against the official kMaX-DeepLab post-processing."""

from __future__ import annotations

import numpy as np
import pytest

from maskconver.core.config import PostprocessConfig
from maskconver.core.proposals import Proposals
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
