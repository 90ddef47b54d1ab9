"""Test-time flips: a mean over an image and its mirror image."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from maskconver import Predictor
from maskconver.data.synth.write import synthesize
from maskconver.errors import ConfigError
from maskconver.models import create_model
from maskconver.models.base import SegmentationModel
from tests.fakes import CATEGORIES, FakeRuntime

SMALL: dict[str, Any] = {"filters": 8, "embedding_dim": 8, "proposals": 6}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "single": ("maskconver_mobile_256", {"low_level_filters": 8}),
    "dense": ("maskconver_mobile_dense_512", {"stuff": "semantic"}),
    "pyramid": ("maskconver_r50_fpn_640", {"backbone": "mobilenetv3_small_100", "head_depths": (1, 1, 1)}),
}


def model(kind: str) -> Any:
    """A network whose answers differ from place to place and from an image to its mirror image."""
    torch.manual_seed(0)
    name, changes = KINDS[kind]
    net = create_model(name, categories=CATEGORIES, **SMALL, **changes).train()
    with torch.no_grad():
        for head in (
            net.class_head.values() if isinstance(net.class_head, torch.nn.ModuleDict) else [net.class_head]
        ):
            head.out.weight.mul_(50)
        net(torch.randn(2, 3, 64, 64))  # statistics of batch norms
    return net.eval()


def images(*size: int) -> Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_the_answer_for_a_mirror_image_is_the_mirrored_answer(kind: str) -> None:
    net, x = model(kind), images(128, 256)
    answer, mirrored = net.predict_flipped(x), net.predict_flipped(x.flip(-1))
    torch.testing.assert_close(answer.scores, mirrored.scores)
    assert torch.equal(answer.labels, mirrored.labels)
    torch.testing.assert_close(answer.mask_logits, mirrored.mask_logits.flip(-1), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(net.predict(x).scores, answer.scores)  # one pass says something else


@torch.no_grad()
def test_heatmaps_are_averaged_before_peaks_and_masks_peak_by_peak() -> None:
    net, x = model("single"), images(64, 64)
    answer = net.predict_flipped(x, 1)
    plain, mirrored = net(x), net(x.flip(-1))
    mean = (plain.heatmap_logits[0].sigmoid() + mirrored.heatmap_logits[0].sigmoid().flip(-1)) / 2
    torch.testing.assert_close(answer.scores[:, 0], mean.flatten(1).max(1).values)
    best = int(mean[0].argmax())
    label, y, width = best // mean[0, 0].numel(), best % mean[0, 0].numel() // mean.shape[-1], mean.shape[-1]
    masks = []
    for maps, column in ((plain, best % width), (mirrored, width - 1 - best % width)):
        cell, labels = torch.tensor([[0, y, column]]), torch.tensor([label])
        embedding = net.mask_embeddings(
            maps.embedding_map, torch.zeros(1, dtype=torch.long), cell, labels=labels
        )
        masks.append(torch.einsum("d,dhw->hw", embedding[0], maps.mask_features[0]))
    expected = (masks[0] + masks[1].flip(-1)) / 2
    torch.testing.assert_close(answer.mask_logits[0, 0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_sides_that_no_cell_divides_and_the_copy_for_inference(kind: str) -> None:
    net, x = model(kind), images(70, 101)
    answer, copy = net.predict_flipped(x, 5), net.optimized().predict_flipped(x, 5)
    assert answer.mask_logits.shape == net.predict(x, 5).mask_logits.shape
    torch.testing.assert_close(copy.scores, answer.scores, rtol=1e-3, atol=1e-4)


def test_the_predictor_averages_where_it_is_told() -> None:
    sample = synthesize("cells", size=(96, 96), seed=3)
    net = model("dense")
    plain, both = Predictor(net), Predictor(net, tta=True)
    assert not torch.equal(plain.proposals(sample.image).scores, both.proposals(sample.image).scores)
    assert both(sample.image).ids.shape == (96, 96)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("model.onnx", "`tta` runs in PyTorch only; give the model that model.onnx was exported from"),
        (FakeRuntime(), "not in a FakeRuntime"),
        ("kmax", "remax_t proposes other masks for a mirror image"),
    ],
)
def test_what_cannot_be_averaged_is_refused_in_one_line(given: Any, message: str) -> None:
    if given == "kmax":
        with torch.device("meta"):
            given = create_model("remax_t", categories=CATEGORIES)
        assert isinstance(given, SegmentationModel)
    with pytest.raises(ConfigError, match=message):
        Predictor(given, tta=True)
