"""ONNX files: for ONNX Runtime, OpenVINO and browsers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..inference.exported import INPUT, KEY, OUTPUTS, Exported
from ..inference.onnx import OnnxRuntime
from .network import example, free_dimensions
from .onnx_quantize import compress, quantize_onnx
from .options import Format


class Onnx(Format):
    """Graphs are `onnx.ModelProto`.

    Opset 18 runs on ONNX Runtime 1.14 and OpenVINO 2023 or newer, opset 20 on 1.17 and 2024.
    """

    name, title, suffix = "onnx", "ONNX", ".onnx"
    packages = ("onnx", "onnxscript", "onnxruntime")

    def trace(self, network: nn.Module, description: Exported, opset: int) -> Any:
        """See `Format.trace`."""
        program = torch.onnx.export(
            network,
            (example(description),),
            dynamo=True,
            verbose=False,
            opset_version=opset,
            input_names=[INPUT],
            output_names=list(OUTPUTS[description.output]),
            dynamic_shapes=free_dimensions(description),
        )
        assert program is not None
        proto = program.model_proto
        _strip(proto)
        return proto

    def quantize(self, graph: Any, description: Exported, calibration: Sequence[NDArray[np.uint8]]) -> Any:
        """See `Format.quantize`."""
        if description.quantize == "int8":
            return quantize_onnx(graph, description, calibration)
        compress(graph, description.quantize)
        return graph

    def write(self, graph: Any, description: Exported, path: Path) -> None:
        """See `Format.write`."""
        del graph.metadata_props[:]
        for key, value in ({KEY: description.to_json()} | description.plain()).items():
            graph.metadata_props.add(key=key, value=value)
        path.write_bytes(graph.SerializeToString())

    def open(self, path: Path) -> OnnxRuntime:
        """See `Format.open`."""
        return OnnxRuntime(path, "cpu")


def _strip(proto: Any) -> None:
    """Removes the exporter's notes: stack traces, with paths of this machine, at every node."""
    graph = proto.graph
    values = (*graph.input, *graph.output, *graph.value_info, *graph.initializer)
    for part in (proto, graph, *graph.node, *values):
        del part.metadata_props[:]
        part.doc_string = ""
