"""How models are made by name."""

from __future__ import annotations

import pytest
import torch

from maskconver.core.categories import Categories
from maskconver.errors import ConfigError
from maskconver.models import create_model, list_models
from maskconver.training.optim import parameter_groups

CLASSES = 5


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


def test_what_only_training_knows_is_no_part_of_the_config() -> None:
    options = {"drop_path": 0.5, "mask_start": (1.0, -3.0)}
    model = create_model("remax_t", num_classes=2, proposals=3, **options)  # as in earlier versions
    assert model.decoder.layers[0].drop.rate == 0.5 and model.decoder.predictor.mask_bn.bias == -3
    assert not options.keys() & vars(model.config).keys()
    with torch.device("meta"):
        registered = create_model("remax_t", num_classes=2)
        chosen = create_model("remax_t", num_classes=2, training=options)
    assert [m.decoder.layers[0].drop.rate for m in (registered, chosen)] == [0.2, 0.5]
    with pytest.raises(ConfigError, match="no training options"):
        create_model("maskconver_mobile_256", num_classes=2, training=options)
    with pytest.raises(ConfigError, match="remax belongs to the loss"):
        create_model("remax_t", num_classes=2, remax={"eta": 0})


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
