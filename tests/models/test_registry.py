"""Every registered model, and how models are made by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from maskconver.core.categories import Categories
from maskconver.errors import ConfigError
from maskconver.models import create_model, list_models
from maskconver.models.checkpoint import load, save
from maskconver.models.maskconver.losses import LossConfig
from maskconver.training.optim import parameter_groups
from tests.batches import batch_of, squares
from tests.losses import judged

CLASSES = 5


# Models that find regions as centre points; those of the other kind are in test_kmax.py, where their training
# losses have no part yet.
NAMES = list_models("maskconver*")
LARGE = [name for name in NAMES if "r50" in name or "spinenet" in name]
MODELS = [pytest.param(n, marks=pytest.mark.slow) if n in LARGE else n for n in NAMES]


@pytest.mark.parametrize("name", MODELS)
class TestEveryModel:
    def test_maps_and_proposals_have_their_shapes_and_are_finite(self, name: str) -> None:
        model = create_model(name, num_classes=CLASSES).eval()
        images = torch.randn(2, 3, 64, 96)
        with torch.no_grad():
            maps = model(images)
        heatmaps, embeddings, dim = maps.heatmap_logits, maps.embedding_map, model.config.embedding_dim
        assert len(heatmaps) == len(embeddings) == len(model.levels)
        for level, heatmap, embedding in zip(model.levels, heatmaps, embeddings):
            size = (-(-64 // (1 << level)), -(-96 // (1 << level)))
            assert heatmap.shape == (2, CLASSES, *size) and embedding.shape == (2, dim, *size)
        h, w = 64 // model.stride, 96 // model.stride
        assert maps.mask_features.shape == (2, dim, h, w)
        proposals = model.predict(images, 7)
        assert proposals.scores.shape == proposals.labels.shape == (2, 7)
        assert proposals.mask_logits.shape == (2, 7, h, w)
        found = (*heatmaps, *embeddings, maps.mask_features, proposals.scores, proposals.mask_logits)
        assert all(m.isfinite().all() for m in found)
        assert (proposals.scores.diff(dim=1) <= 0).all()
        assert ((proposals.labels >= 0) & (proposals.labels < CLASSES)).all()

    def test_a_few_training_steps_lower_the_loss_and_reach_every_parameter(self, name: str) -> None:
        torch.manual_seed(0)
        model = create_model(name, num_classes=CLASSES).train()
        batch = batch_of([squares(), squares()])
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        losses = []
        for _ in range(8):
            terms = judged(model, model(batch.images), batch, LossConfig())
            assert set(terms) == {"center", "mask", "dice"}
            loss = torch.stack(list(terms.values())).sum()
            optimizer.zero_grad()
            loss.backward()
            losses.append(loss.item())
            for key, parameter in model.named_parameters():
                assert parameter.grad is not None, key
                assert parameter.grad.isfinite().all(), key
            optimizer.step()
        assert losses[-1] < losses[0]

    def test_a_saved_model_answers_bitwise_the_same(self, name: str, tmp_path: Path) -> None:
        torch.manual_seed(1)
        model = create_model(name, num_classes=CLASSES).train()
        images = torch.randn(2, 3, 64, 64)
        with torch.no_grad():
            model(images)  # moves the batch-norm statistics away from their start
        save(model.eval(), tmp_path / "model.safetensors")
        loaded = load(tmp_path / "model.safetensors")
        assert loaded.config == model.config and loaded.name == name and not loaded.training
        a, b = model.predict(images, 10), loaded.predict(images, 10)
        np.testing.assert_array_equal(a.scores, b.scores)
        np.testing.assert_array_equal(a.labels, b.labels)
        np.testing.assert_array_equal(a.mask_logits, b.mask_logits)

    @pytest.mark.slow
    def test_the_network_is_one_graph_to_the_compiler(self, name: str) -> None:
        model = create_model(name, num_classes=CLASSES).eval()
        images = torch.randn(1, 3, 64, 64)
        torch.compiler.reset()  # else networks of one class count as recompilations of the first
        with torch.no_grad():
            plain = model(images)
            compiled = torch.compile(model, fullgraph=True, backend="aot_eager")(images)
        torch.testing.assert_close(compiled.mask_features, plain.mask_features, atol=1e-3, rtol=1e-3)
        for a, b in zip(compiled.heatmap_logits, plain.heatmap_logits):
            torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)

    @pytest.mark.parametrize("classes", [1, 1000])
    def test_one_and_a_thousand_categories_work(self, name: str, classes: int) -> None:
        model = create_model(name, num_classes=classes).eval()
        proposals = model.predict(torch.randn(1, 3, 64, 64), 5)
        assert proposals.scores.shape == (1, 5) and (proposals.labels < classes).all()


@pytest.mark.slow
def test_a_compiled_network_answers_as_the_plain_one() -> None:
    model = create_model("maskconver_mobile_256", num_classes=CLASSES).eval()
    images = torch.randn(1, 3, 64, 64)
    torch.compiler.reset()
    with torch.no_grad():
        plain, compiled = model(images), torch.compile(model, fullgraph=True)(images)
    torch.testing.assert_close(compiled.heatmap_logits[0], plain.heatmap_logits[0], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", ["maskconver_mobile_256", "kmax_r50"])
@pytest.mark.parametrize("classes", [0, -1])
def test_a_model_has_at_least_one_class(name: str, classes: int) -> None:
    with pytest.raises(ConfigError, match="give 1 or more"):
        create_model(name, num_classes=classes)


def test_names_are_listed_by_pattern() -> None:
    assert "maskconver_mobile_256" in list_models("maskconver_mobile_*")
    assert list_models("nothing*") == []
    assert list_models() == sorted(list_models())


def test_an_unknown_name_is_refused_with_the_nearest_ones() -> None:
    with pytest.raises(ConfigError, match="maskconver_mobile_256"):
        create_model("maskconver_mobil_256")


def test_an_unknown_field_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"no field .proposal.; did you mean proposals"):
        create_model("maskconver_mobile_256", num_classes=2, proposal=3)


def test_nested_fields_take_a_dict_or_dotted_names() -> None:
    one = create_model("maskconver_mobile_256", num_classes=2, postprocess={"min_area": 0.5})
    other = create_model("maskconver_mobile_256", num_classes=2, **{"postprocess.min_area": 0.5})
    assert one.config == other.config and one.postprocess.min_area == 0.5
    assert create_model("maskconver_mobile_256", num_classes=2).postprocess.min_area != 0.5


def test_categories_travel_with_the_model_and_must_fit_the_number_of_classes() -> None:
    categories = Categories.coco()
    model = create_model("maskconver_mobile_256", categories=categories)
    assert model.categories == categories and model.num_classes == 133
    with pytest.raises(ConfigError, match="7 classes but 133 categories"):
        create_model("maskconver_mobile_256", categories=categories, num_classes=7)


def test_weight_decay_falls_on_the_tensors_of_the_reference() -> None:
    model = create_model("maskconver_mobile_256", num_classes=201)
    decayed, rest = parameter_groups(model, 1e-5)
    # the reference has 56; one belongs to its unused block 19
    assert len(decayed["params"]) == 55 and decayed["weight_decay"] == 1e-5 and rest["weight_decay"] == 0
    assert len(decayed["params"]) + len(rest["params"]) == len(list(model.parameters()))
    chosen = {id(p) for p in decayed["params"]}
    names = {k for k, p in model.named_parameters() if id(p) in chosen}
    assert {"class_embedding.weight", "mlp.fc1.weight", "class_head.out.weight"} <= names
    assert not any("dw" in k or k.endswith("bias") or "bn" in k or "norm" in k for k in names)


def test_timm_backbones_follow_padding_and_momentum() -> None:
    model = create_model("maskconver_mnv3s_640", num_classes=2, bn_momentum=0.05)
    norms = [m for m in model.backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert {m.momentum for m in norms} == {0.05}
    symmetric = create_model("maskconver_mnv3s_640", num_classes=2, padding="symmetric")
    symmetric.load_state_dict(model.state_dict())
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        same, other = model.eval().backbone(image), symmetric.eval().backbone(image)
    assert all(same[level].shape == other[level].shape for level in same)
    assert not torch.allclose(same[1], other[1])
