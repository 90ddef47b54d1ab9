"""The semantic variants are the networks of the reference's golden cases and size table."""

from __future__ import annotations

import pytest

from maskconver.models import create_model
from maskconver.models.inspect import count_macs, count_parameters
from maskconver.models.registry import model_config
from tests.golden.reference import SEMANTIC

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
@pytest.mark.parametrize(("data", "case"), [("voc", "segvoc"), ("cityscapes", "segcity")])
def test_the_golden_cases_are_these_architectures(data: str, case: str) -> None:
    config, plain = model_config(f"maskconver_seg_mobile_{data}"), model_config("maskconver_mobile_256")
    golden = {**vars(plain), **SEMANTIC[case][1]}
    apart = {"bn_momentum", "proposals", "input", "postprocess"}  # nothing of the network
    if data == "cityscapes":
        apart.add("aspp_pool_window")  # smaller in the golden case, as its image is
    assert {k for k, v in vars(config).items() if v != golden[k]} <= apart
