"""MaskConver for inference: less arithmetic, the same answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from maskconver.core.preprocess import prepare
from maskconver.core.proposals import Proposals
from maskconver.errors import ConfigError
from maskconver.inference.predictor import Predictor
from maskconver.inference.runtime import Replay, open_runtime, run
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


@pytest.mark.parametrize("agreement", [None, 0.0, 0.6, 1.0])
def test_what_cannot_become_a_segment_gets_no_mask(agreement: float | None) -> None:
    """The segments are those of all proposals; what a semantic head may lift stays."""
    changes: dict[str, Any] = {"input": {"size": (96, 160)}}
    if agreement is not None:
        changes |= {"stuff": "semantic", "agreement": agreement}
    model = trained_looking("maskconver_mobile_256", num_classes=None, categories=CATEGORIES, **changes)
    images = np.random.default_rng(0).integers(0, 255, (2, 96, 160, 3)).astype(np.uint8)
    fast = model.optimized()
    whole = Predictor(fast, device="cpu", score_threshold=0.0).proposals(images[0]).numpy()
    fewer = []
    for share in (0.1, 0.5, 0.9, 1.0):
        threshold = float(np.quantile(whole.scores, share))
        predictor = Predictor(fast, device="cpu", batch_size=2, score_threshold=threshold)
        for image, answer in zip(images, predictor([*images])):
            expected = predictor.segmentations(predictor.proposals(image))[0]
            assert (answer.ids == expected.ids).all()
            assert [s.label for s in answer] == [s.label for s in expected]
        found = predictor.runtime(prepare(images[0], model.input)[0][None], least=threshold)
        fewer.append(found.scores.shape[1])
    assert fewer[0] <= len(whole.scores[0]) and fewer == sorted(fewer, reverse=True)
    assert fewer[-1] < fewer[0] or agreement in (0.6, 1.0)  # those may be lifted above all thresholds tried
    share = 1 - (agreement or 0.0)
    assert fast.least_peak(0.3) == pytest.approx(0.3 ** (1 / share) if share else -1.0, rel=1e-3)


def test_other_thresholds_and_flips_see_all_proposals() -> None:
    model = trained_looking("maskconver_mobile_256", num_classes=None, categories=CATEGORIES)
    assert TorchRuntime(model.optimized()).selects
    assert not TorchRuntime(model).selects and not TorchRuntime(model.optimized(), tta=True).selects
    images = np.zeros((1, 3, 64, 64), np.float32)
    replay = Replay(TorchRuntime(model.optimized()), lambda found: found)
    one = run(replay.runtime(), images, 1.0)
    assert isinstance(one, Proposals) and one.scores.shape[1] == model.config.proposals
    picture = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    predictor = Predictor(model.optimized(), device="cpu", score_threshold=0.999, semantic=True, instances=10)
    seen, network = [], predictor.runtime.answer
    predictor.runtime.answer = lambda *given, **options: seen.append(options) or network(*given, **options)
    answer, whole = predictor(picture), predictor.segmentations(predictor.proposals(picture))[0]
    assert (answer.semantic == whole.semantic).all() and seen == [{}, {}]
