"""The shipped ONNX file in OpenVINO; see docs/tasks/ship.md."""

from __future__ import annotations

import numpy as np
import pytest

from maskconver.core.files import WEIGHTS
from maskconver.core.preprocess import prepare
from maskconver.data.synth.write import synthesize
from maskconver.inference.onnx import OnnxRuntime

openvino = pytest.importorskip("openvino", reason='needs openvino, of the extra "dev"')
pytest.importorskip("onnxruntime")


def test_openvino_gives_the_answer_of_onnx_runtime() -> None:
    path = WEIGHTS / "nuclei.onnx"
    own = OnnxRuntime(path)
    canvas, _ = prepare(synthesize("cells", (300, 200), 1).image, own.input)
    expected = own(canvas[None])
    found = openvino.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(canvas[None])
    np.testing.assert_allclose(found["scores"], expected.scores, atol=1e-4)
    np.testing.assert_array_equal(found["labels"], expected.labels)
    sure = expected.scores > 0.1  # far below these, two proposals may score the same and change places
    assert sure.any()
    span = np.abs(expected.mask_logits).max()
    np.testing.assert_allclose(found["mask_logits"][sure], expected.mask_logits[sure], atol=1e-4 * span)
