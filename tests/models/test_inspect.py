"""Parameters and multiply-accumulates against the table of the reference."""

from __future__ import annotations

from typing import Any

import pytest

from maskconver.models import create_model
from maskconver.models.inspect import count_macs, count_parameters
from maskconver.models.maskconver import MaskConver

MOBILE: dict[str, Any] = {"num_classes": 201, "proposals": 50}
VOC: dict[str, Any] = {"num_classes": 21, "proposals": 100, "level": 4, "head_depths": (2, 1, 1)}
CITYSCAPES: dict[str, Any] = {
    "num_classes": 19,
    "proposals": 100,
    "level": 4,
    "fusion": "concat",
    "filters": 128,
    "embedding_dim": 128,
    "low_level_filters": 48,
    "aspp_pool_window": (32, 64),
}
# config, canvas, parameters, trainable parameters, published GMACs
TABLE = {
    "mobile-256": (MOBILE, (256, 256), 3_418_985, 3_380_457, 1.543),
    "mobile-384": (MOBILE, (384, 384), 3_418_985, 3_380_457, 3.428),
    "mobile-640": (MOBILE, (640, 640), 3_418_985, 3_380_457, 9.532),
    "coco-seg-640": ({"num_classes": 91, "proposals": 100}, (640, 640), 3_362_555, 3_324_027, 9.440),
    "voc-512": (VOC, (512, 512), 3_481_781, 3_445_301, 4.168),
    "cityscapes": (CITYSCAPES, (1024, 2048), 2_313_027, 2_280_067, 24.394),
    "mobile-256-7x7": (MOBILE | {"head_kernel": 7}, (256, 256), 3_480_425, 3_441_897, 1.606),
    "mobile-640-7x7": (MOBILE | {"head_kernel": 7}, (640, 640), 3_480_425, 3_441_897, 9.925),
    "voc-512-7x7": (VOC | {"head_kernel": 7}, (512, 512), 3_522_741, 3_486_261, 4.210),
    "cityscapes-7x7": (CITYSCAPES | {"head_kernel": 7}, (1024, 2048), 2_349_507, 2_316_547, 24.693),
}


@pytest.mark.golden
@pytest.mark.parametrize("row", TABLE)
def test_parameters_and_macs_are_the_published_ones(row: str) -> None:
    changes, size, parameters, trainable, gmacs = TABLE[row]
    model = create_model("maskconver_mobile_256", **changes)
    assert count_parameters(model) == parameters
    assert count_parameters(model, trainable=True) == trainable
    assert count_macs(model, size, as_published=True) / 1e9 == pytest.approx(gmacs, abs=0.0006)


@pytest.mark.golden
def test_the_parts_of_the_mobile_model_have_the_published_sizes() -> None:
    model = create_model("maskconver_mobile_256", **MOBILE)
    parts = {name: count_parameters(part) for name, part in model.named_children()}
    assert parts == {
        "backbone": 1_661_280,
        "decoder": 919_360,
        "class_head": 208_841,
        "embedding_head": 222_976,
        "mask_head": 222_976,
        "mlp": 132_096,
        "class_embedding": 51_456,
    }


def test_what_the_network_needs_is_counted_without_the_padding_of_the_published_graphs() -> None:
    model = create_model("maskconver_mobile_256", **MOBILE)
    assert count_macs(model) == 1_489_190_912
    # at 768 px the 48×48 map is padded for no rate but 18 (to 54×54)
    extra = count_macs(model, (768, 768), as_published=True) - count_macs(model, (768, 768))
    assert extra == (54**2 - 48**2) * 448 * (9 + 256)


def macs_of_one_proposal(model: MaskConver, size: int) -> float:
    return (count_macs(model, (size, size), 30) - count_macs(model, (size, size), 20)) / 10


@pytest.mark.parametrize(("size", "millions"), [(256, 0.39), (640, 1.77)])
def test_a_proposal_costs_its_dense_layers_and_its_mask(size: int, millions: float) -> None:
    model = create_model("maskconver_mobile_256", **MOBILE)
    assert macs_of_one_proposal(model, size) / 1e6 == pytest.approx(millions, abs=0.005)


def test_counting_leaves_the_model_as_it_was() -> None:
    model = create_model("maskconver_mobile_256", num_classes=2).train()
    count_macs(model, (64, 64))
    assert model.training and model.class_embedding.weight.device.type == "cpu"
