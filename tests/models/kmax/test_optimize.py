"""The networks of kMaX-DeepLab for inference: less arithmetic, the same answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from maskconver.inference.runtime import open_runtime
from maskconver.inference.torch import TorchRuntime
from maskconver.models.checkpoint import save
from maskconver.models.kmax import KMaXDeepLab, ReMaXConfig
from maskconver.models.optimize import fold_batch_norms
from tests.fakes import CATEGORIES
from tests.networks import trained_looking


def assert_equal(model: KMaXDeepLab, images: Tensor, tolerance: float = 2e-4) -> None:
    with torch.no_grad():
        plain, fast = model(images).final, model.optimized()(images)
    for wanted, got in zip(plain[:3], fast[:3]):
        torch.testing.assert_close(got, wanted, rtol=1e-3, atol=tolerance * float(wanted.abs().max()))


NAMES = [n if n == "remax_t" else pytest.param(n, marks=pytest.mark.slow) for n in ("remax_t", "remax_s")]
NAMES += [pytest.param(n, marks=pytest.mark.slow) for n in ("remax_m", "kmax_convnext_t", "kmax_max_s")]


@pytest.mark.parametrize("name", NAMES)
def test_the_rewritten_network_answers_as_the_plain_one(name: str) -> None:
    # MaX-S differs most: 3e-4 of the range in float32 where it was measured.
    tolerance = 6e-4 if name == "kmax_max_s" else 2e-4
    assert_equal(trained_looking(name), torch.randn(2, 3, 96, 65), tolerance)


def test_masks_relaxed_at_inference_stay_relaxed() -> None:
    model = trained_looking("remax_t", remask_at_test=ReMaXConfig(remask_layers=2))
    assert_equal(model, torch.randn(1, 3, 64, 64))


def test_nothing_of_the_model_itself_changes() -> None:
    model = trained_looking("remax_t")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.optimized()
    after = model.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[k], v) for k, v in before.items())


def test_no_batch_norm_is_left() -> None:
    assert not any(isinstance(m, nn.BatchNorm2d) for m in trained_looking("remax_t").optimized().modules())


def test_a_loaded_model_is_run_rewritten(tmp_path: Any) -> None:
    model = trained_looking("remax_t", num_classes=None, categories=CATEGORIES)
    save(model, tmp_path / "m.safetensors")
    runtime = open_runtime(tmp_path / "m.safetensors", "cpu")
    assert isinstance(runtime, TorchRuntime)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in runtime.model.modules())
    images = np.random.default_rng(0).normal(size=(1, 3, 64, 64)).astype(np.float32)
    wanted = model.predict(torch.from_numpy(images))
    np.testing.assert_allclose(runtime(images).scores, wanted.scores, rtol=1e-3)


@torch.no_grad()
def test_a_batch_norm_is_folded_only_into_the_convolution_before_it() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
    )
    images = torch.randn(2, 3, 8, 8)
    network(images)
    wanted = network.eval()(images)
    assert fold_batch_norms(network, images) == 1
    assert isinstance(network[2], nn.BatchNorm2d) and isinstance(network[4], nn.Identity)
    torch.testing.assert_close(network(images), wanted)
