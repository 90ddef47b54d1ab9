"""An ONNX graph that calculates in 8 bits, by ONNX Runtime's static quantisation."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..inference.exported import INPUT, Exported
from .calibration import FLOAT_LAYER, calibration_feeds

OPERATIONS = ("Conv", "Relu", "Add", "Mul", "Concat", "Resize", "ReduceMean", "AveragePool", "MaxPool", "Pad")


def quantize_onnx(proto: Any, file: Exported, calibration: Sequence[NDArray[np.uint8]]) -> Any:
    """The graph with 8-bit weights, a scale a channel, and 8-bit values between its operators.

    Args:
        proto: `onnx.ModelProto` in float32, with its weights inside.
        file: its description.
        calibration: H×W×3 uint8 pictures on which the ranges of the values are measured.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.feeds = calibration_feeds(calibration, file, channels_last=False)

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            fed = next(self.feeds, None)
            return None if fed is None else {INPUT: fed}

    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "int8.onnx")
            quantize_static(
                proto,
                path,
                Reader(),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(OPERATIONS),
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=_in_float(proto.graph),
            )
            return onnx.load(path)
    finally:
        logging.disable(level)


def _in_float(graph: Any) -> list[str]:
    """Names of the layers that stay in float32 (see `FLOAT_LAYER`), all that follows them, and constants.

    Constants, such as the monomials of positions that masks are made with, are calculated in large graphs.
    """
    seen, exact = {INPUT}, set[str]()
    names = []
    for node in graph.node:  # in the order of calculation
        if any(FLOAT_LAYER.search(name) or name in exact for name in node.input):
            exact.update(node.output)
        elif any(name in seen for name in node.input):
            seen.update(node.output)
            continue
        names.append(node.name)
    return names
