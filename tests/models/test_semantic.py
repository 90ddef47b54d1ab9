"""The semantic variants are the networks of the reference's golden cases and size table (page §7 and §9)."""

from __future__ import annotations

import pytest

from maskconver.models import create_model
from maskconver.models.cost import count_macs, count_parameters
from maskconver.models.registry import model_config
from tests.golden.test_model import SEMANTIC

ROWS = {
    "maskconver_seg_mobile_coco": (91, (640, 640), 3_362_555, 9.440),
    "maskconver_seg_mobile_voc": (21, (512, 512), 3_481_781, 4.168),
    "maskconver_seg_mobile_cityscapes": (19, (1024, 2048), 2_313_027, 24.394),
}


@pytest.mark.golden
@pytest.mark.parametrize("name", ROWS)
def test_parameters_and_macs_are_the_published_ones(name: str) -> None:
    classes, size, parameters, gmacs = ROWS[name]
    model = create_model(name, num_classes=classes)
    assert model.input.size == size and model.config.proposals == 100
    assert count_parameters(model) == parameters
    assert count_macs(model, size, as_published=True) / 1e9 == pytest.approx(gmacs, abs=0.0006)


@pytest.mark.golden
@pytest.mark.parametrize(
    ("name", "case"),
    [("maskconver_seg_mobile_voc", "segvoc"), ("maskconver_seg_mobile_cityscapes", "segcity")],
)
def test_the_golden_cases_are_these_architectures(data: str, case: str) -> None:
    config = model_config(name)
    golden = SEMANTIC[case][1] | {
        "aspp_pool_window": config.aspp_pool_window
    }  # smaller there, as the image is
    plain = model_config("maskconver_mobile_256")
    apart = {"bn_momentum", "proposals", "input", "merge"}  # nothing of the network
    assert {k for k, v in vars(config).items() if v != {**vars(plain), **golden}[k]} <= apart
