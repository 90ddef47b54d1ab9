"""An ONNX graph that calculates in 8 bits, by ONNX Runtime's static quantisation."""

from __future__ import annotations

import re
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..inference.exported import INPUT, Exported, Precision
from ..inference.silence import quiet
from .network import calibration_feeds

SMALL = 1024  # values; smaller tensors stay as they are, there is nothing to save
# Operators whose second input is a weight (the first, of Gather), and the axis of its output channels.
WEIGHT = {"Conv": (1, 0), "MatMul": (1, -1), "Gemm": (1, 0), "Gather": (0, 0)}
# The last convolution of each head stays in float32, and all that follows: it costs little, and in 8 bits the
# positions would lose the masks. Everything before calculates in 8 bits.
FLOAT_LAYER = re.compile(r"_head\.out\.")


def compress(model: Any, precision: Precision) -> None:
    """Stores the weights of a graph in fewer bits, in place, each followed by its way back to float32.

    Args:
        model: `onnx.ModelProto` with its weights inside.
        precision: `none` changes nothing; `fp16` rounds to half precision; `int8-weights` to whole
            multiples of a scale of each output channel, -127…127.
    """
    if precision == "none":
        return
    from onnx import helper, numpy_helper

    graph = model.graph
    axes = _axes(graph)
    before = []
    for tensor in list(graph.initializer):
        values = numpy_helper.to_array(tensor)
        if tensor.name not in axes or values.dtype != np.float32 or values.size < SMALL:
            continue
        stored = f"{tensor.name}_{precision}"
        if precision == "fp16":
            if np.abs(values).max() > np.finfo(np.float16).max:
                continue  # it would become infinite
            graph.initializer.append(numpy_helper.from_array(values.astype(np.float16), stored))
            before.append(helper.make_node("Cast", [stored], [tensor.name], to=1))  # 1: float32
        else:
            axis = axes[tensor.name] % values.ndim
            whole, scale = _whole_multiples(values, axis)
            names = [stored, f"{stored}_scale", f"{stored}_zero"]
            arrays: tuple[NDArray[Any], ...] = whole, scale, np.zeros(len(scale), np.int8)
            for name, array in zip(names, arrays):
                graph.initializer.append(numpy_helper.from_array(array, name))
            before.append(helper.make_node("DequantizeLinear", names, [tensor.name], axis=axis))
        graph.initializer.remove(tensor)
    nodes = [*before, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _axes(graph: Any) -> dict[str, int]:
    """The axis of output channels of every weight; tensors that are used in two ways are left out."""
    found: defaultdict[str, set[int]] = defaultdict(set)
    for node in graph.node:
        place, axis = WEIGHT.get(node.op_type, (1, 0))
        if node.op_type == "Gemm" and not any(a.name == "transB" and a.i for a in node.attribute):
            axis = 1
        for i, name in enumerate(node.input):
            found[name].add(axis if node.op_type in WEIGHT and i == place else 99)
    return {name: min(axes) for name, axes in found.items() if len(axes) == 1 and 99 not in axes}


def _whole_multiples(values: NDArray[np.float32], axis: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Values as int8, and the scale of each channel."""
    others = tuple(i for i in range(values.ndim) if i != axis)
    scale = np.abs(values).max(others, keepdims=True) / 127
    scale[scale == 0] = 1
    return np.round(values / scale).astype(np.int8), scale.ravel().astype(np.float32)


OPERATIONS = ("Conv", "Relu", "Add", "Mul", "Concat", "Resize", "ReduceMean", "AveragePool", "MaxPool", "Pad")


def quantize_onnx(proto: Any, file: Exported, calibration: Sequence[NDArray[np.uint8]]) -> Any:
    """The graph with 8-bit weights, one scale per channel, and 8-bit values between its operators.

    Args:
        proto: `onnx.ModelProto` in float32, with its weights inside.
        file: its description.
        calibration: H×W×3 uint8 images on which the ranges of the values are measured.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.feeds = calibration_feeds(calibration, file, channels_last=False)

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            fed = next(self.feeds, None)
            return None if fed is None else {INPUT: fed}

    with quiet(), tempfile.TemporaryDirectory() as folder:
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
