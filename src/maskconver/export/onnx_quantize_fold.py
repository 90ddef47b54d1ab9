"""Weights of an ONNX graph stored in 16 or 8 bits; it still calculates in 32."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..inference.exported import Precision

SMALL = 1024  # values; smaller tensors stay as they are, there is nothing to save
# Operators whose second input is a weight (the first, of Gather), and the axis of its output channels.
WEIGHT = {"Conv": (1, 0), "MatMul": (1, -1), "Gemm": (1, 0), "Gather": (0, 0)}


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
