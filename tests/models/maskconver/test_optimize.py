"""MaskConver for inference: less arithmetic, the same answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from maskconver.errors import ConfigError
from maskconver.inference.runtime import open_runtime
from maskconver.inference.torch import TorchRuntime
from maskconver.models.checkpoint import save
from maskconver.models.maskconver import MaskConver
from maskconver.models.maskconver.optimize import LateHeads
from tests.fakes import CATEGORIES
from tests.networks import trained_looking


def assert_equal(model: MaskConver, images: Tensor) -> None:
    plain, fast = model.predict(images), model.optimized().predict(images)
    torch.testing.assert_close(fast.scores, plain.scores, rtol=0, atol=1e-5)
    torch.testing.assert_close(fast.labels, plain.labels, rtol=0, atol=0)
    scale = float(plain.mask_logits.abs().max())
    torch.testing.assert_close(fast.mask_logits, plain.mask_logits, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"position": True},
        {"fusion": "concat"},
        {"fusion": "none", "level": 4},
        {"activation": "gelu"},
        {"separable": False},
        {"class_embedding": "none"},
        {"head_depths": (0, 0, 0)},
        {"in_channels": 1},
        {"name": "maskconver_mobile_dense_512"},
    ],
    ids=lambda changes: "-".join(f"{k}={v}" for k, v in changes.items()) or "as registered",
)
def test_the_rewritten_network_answers_as_the_plain_one(changes: dict[str, Any]) -> None:
    model = trained_looking(**{"name": "maskconver_mobile_256", **changes})
    assert_equal(model, torch.randn(2, model.config.in_channels, 96, 160))


def test_nothing_of_the_model_itself_changes() -> None:
    model = trained_looking("maskconver_mobile_256")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    rewritten = model.train().optimized()
    assert type(model) is MaskConver and model.training and type(rewritten) is LateHeads
    assert not any(m.training or isinstance(m, nn.BatchNorm2d) for m in rewritten.modules())
    after = model.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[k], before[k]) for k in before)


def test_every_cell_may_be_a_proposal() -> None:
    model = trained_looking("maskconver_mobile_256")
    plain, fast = (m.predict(torch.zeros(1, 3, 64, 64), 400) for m in (model, model.optimized()))
    assert plain.mask_logits.shape == fast.mask_logits.shape == (1, 5 * 8 * 8, 8, 8)


def test_model_files_are_run_rewritten(tmp_path: Path) -> None:
    model = trained_looking("maskconver_mobile_256", num_classes=None, categories=CATEGORIES)
    save(model, tmp_path / "m.safetensors")
    runtime = open_runtime(tmp_path / "m.safetensors", "cpu")
    assert isinstance(runtime, TorchRuntime) and isinstance(runtime.model, LateHeads)


def test_a_rewritten_model_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="copy for inference"):
        save(trained_looking("maskconver_mobile_256").optimized(), tmp_path / "m.safetensors")
    assert not list(tmp_path.iterdir())
