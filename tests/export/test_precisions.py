"""Every shipped and published model in every format and precision, on real images where there are any."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec

import pytest

import maskconver as mc
from maskconver.metrics import PanopticQuality

pytestmark = pytest.mark.slow

BYTES = {"none": 4.2, "fp16": 2.2, "int8-weights": 1.4, "int8": 1.55}  # a weight, with the graph around it
# PQ of a file's maps against those of its model, of all segments: what users see of the difference.
LEAST_PQ = {"none": 0.9999, "fp16": 0.95, "int8-weights": 0.8, "int8": 0.7}
litert = pytest.mark.skipif(not find_spec("litert_torch"), reason='needs litert-torch, of the extra "export"')
FORMATS = ["onnx", pytest.param("litert", marks=litert)]


@pytest.mark.parametrize("quantize", [*BYTES])
@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("name", ["nuclei", "mobile 256", "mobile 640"])
def test_the_file_answers_as_the_model(exported, models, name, to, quantize):
    path, result = exported(name, to, real=True, quantize=quantize)
    model = models[name]
    assert path.stat().st_size < BYTES[quantize] * sum(p.numel() for p in model.parameters())
    assert result.images == 2 and result.proposals == 2 * model.config.proposals
    if quantize == "none":
        assert result.scores < 1e-4 and result.masks < 1e-4
        # A cell that is 1e-6 below its neighbour may be a peak in one of the two: rounding decides.
        assert result.unpaired <= 2e-3 * result.proposals
        assert result.differing <= 1e-5 * result.pixels  # where two masks are equal but for rounding


@pytest.mark.parametrize("quantize", [*BYTES])
@pytest.mark.parametrize("to", FORMATS)
def test_maps_of_the_trained_model_agree(exported, models, images, to, quantize):
    path, _ = exported("nuclei", to, real=True, quantize=quantize)
    own, file = mc.Predictor(models["nuclei"]), mc.Predictor(path)
    metric = PanopticQuality(own.categories)
    for image in images["nuclei"][:6]:
        expected, answer = own(image), file(image)
        metric.update(answer.ids, answer.segments, expected.ids, expected.segments)
    assert metric.compute().all.pq > LEAST_PQ[quantize]


@litert
def test_a_litert_file_with_the_merge_inside_gives_the_models_maps(exported):
    _, result = exported("mobile", "litert", output="panoptic", uint8=True, proposals=20)
    assert result.images == 2 and result.differing == 0


@litert
def test_bytes_go_into_a_litert_file_that_normalises_itself(exported, models, images):
    path, result = exported("mobile", "litert", uint8=True)
    assert result.differing == 0
    own = mc.Predictor(models["mobile"])
    seg, expected = mc.Predictor(path)(images["mobile"][0]), own(images["mobile"][0])
    assert replace(mc.Predictor(path).runtime.input) == own.runtime.input
    assert [s.label for s in seg][:3] == [s.label for s in expected][:3]
