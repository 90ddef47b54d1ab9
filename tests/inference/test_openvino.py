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
    span = np.abs(expected.mask_logits).max()
    for scores, labels, masks in zip(found["scores"], found["labels"], found["mask_logits"]):
        for score, label, mask in zip(expected.scores[0], expected.labels[0], expected.mask_logits[0]):
            # Two proposals that score the same may change places.
            alike = (np.abs(scores - score) <= 1e-4) & (labels == label)
            assert np.abs(masks[alike] - mask).max((1, 2)).min() <= 1e-4 * span
