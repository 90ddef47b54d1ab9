"""Every registered MaskConver; what they compute is in tests/golden."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from maskconver.models import list_models
from tests.models.tester import CLASSES, SAME_TRAINING, ModelTester, TrainingTester, networks, quick

NAMES = list_models("maskconver*")
LARGE = [name for name in NAMES if "r50" in name or "spinenet" in name]


@pytest.mark.parametrize("name", quick(networks(NAMES, SAME_TRAINING), LARGE))
class TestEveryTraining(TrainingTester):
    pass


@pytest.mark.parametrize("name", quick(networks(NAMES), LARGE))
class TestEveryNetwork(ModelTester):
    def maps(self, output: Any) -> list[Tensor]:
        return [*output.heatmap_logits, *output.embedding_map, output.mask_features]

    @torch.no_grad()
    def test_maps_have_the_sizes_of_their_levels(self, name: str) -> None:
        model = self.make(name).eval()
        maps, dim = model(torch.randn(2, 3, 64, 96)), model.config.embedding_dim
        heatmaps, embeddings = maps.heatmap_logits, maps.embedding_map
        assert len(heatmaps) == len(embeddings) == len(model.levels)
        for level, heatmap, embedding in zip(model.levels, heatmaps, embeddings):
            size = (-(-64 // (1 << level)), -(-96 // (1 << level)))
            assert heatmap.shape == (2, CLASSES, *size) and embedding.shape == (2, dim, *size)
        assert maps.mask_features.shape == (2, dim, 64 // model.stride, 96 // model.stride)
