"""Writes a model as one ONNX file: the network up to `Proposals`, or up to the panoptic map."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..core.files import atomic_path
from ..errors import ConfigError, ExportError, MissingExtraError
from ..inference.exported import INPUT, KEY, OUTPUTS, Exported, Output, Precision
from ..inference.onnx import OnnxRuntime
from ..models.kmax import KMaXDeepLab
from ..models.registry import Model
from .compare import Comparison, compare, compare_panoptic, require_alike, require_equal
from .network import any_size, check_calibration, compared_on, describe, example, network
from .onnx_quantize import compress, quantize_onnx

# Of ONNX Runtime 1.14 and OpenVINO 2023 on. With Gelu, of which kMaX-DeepLab is full: 1.17 and 2024.
OPSET, OPSET_WITH_GELU = 18, 20


def export_onnx(
    model: Model,
    path: str | os.PathLike[str],
    *,
    size: tuple[int, int] | None = None,
    dynamic: bool = False,
    proposals: int | None = None,
    quantize: Precision = "none",
    uint8: bool = False,
    output: Output = "proposals",
    calibration: Sequence[NDArray[np.uint8]] | None = None,
    images: Sequence[NDArray[np.uint8]] | None = None,
) -> Comparison:
    """Writes a model to one ONNX file, runs it, and keeps it only if it answers as the model does.

    The file's input is `images`, 1×3×h×w float32 normalised (1×h×w×3 uint8 RGB with `uint8`); its outputs
    are the fields of `Proposals`: `scores` 1×N float32, `labels` 1×N int64, `mask_logits` 1×N×h'×w' float32;
    or those of `CanvasMap` with a first dimension of 1.

    Args:
        model: any of RGB images; unchanged. kMaX-DeepLab and ReMaX with one size and all their queries.
        path: ends in `.onnx`; an older file is replaced.
        size: (height, width) of the canvas, to which pictures are then scaled; the model's own if left out.
        dynamic: the file takes canvases of any size that is a multiple of 32; otherwise of `size`. Models
            that keep pictures at their own size need this or a `size`.
        proposals: masks an image; the model's number if left out.
        quantize: `none` float32; `fp16` and `int8-weights` (a scale a channel) store weights so and calculate
            in float32; `int8` calculates in 8 bits, with the ranges seen on `calibration`.
        uint8: scaling to 0…1, mean and std are part of the file. Padding must then be the mean colour.
        output: `proposals`, or `panoptic` with the merge in the file; that needs one size.
        calibration: H×W×3 uint8 pictures such as the file will see; for `int8`.
        images: H×W×3 uint8 pictures the file is compared on; some of `calibration`, or generated ones, if
            left out.

    Returns:
        How much the file's answers differ from the model's.

    Raises:
        ConfigError: an option that does not fit the model.
        ExportError: the model cannot be exported, or the file differs from it; `path` is then as it was.
        MissingExtraError: onnx, onnxscript or onnxruntime is not installed.
    """
    _require_packages()
    description = describe(model, size, dynamic, proposals, quantize, uint8, output, kmax=True)
    if Path(path).suffix != ".onnx":
        raise ConfigError(f'{path} does not end in ".onnx", by which the file is known later')
    check_calibration(quantize, calibration)
    images = images or compared_on(calibration)
    with atomic_path(path) as temporary:
        proto = _graph(model, description)
        _strip(proto)
        if output == "panoptic":
            # In full precision first, as quantised maps may differ in many pixels.
            result: Comparison = compare_panoptic(model, _written(proto, description, temporary), images)
            require_equal(result, "none")
            if quantize != "none":
                proto = _quantized(proto, description, calibration or ())
                result = compare_panoptic(model, _written(proto, description, temporary), images)
                require_alike(result)
            return result
        proto = _quantized(proto, description, calibration or ())
        result = compare(model, _written(proto, description, temporary), images)
        require_equal(result, quantize)
    return result


def _quantized(proto: Any, description: Exported, calibration: Sequence[NDArray[np.uint8]]) -> Any:
    """The graph in the precision that the description says."""
    if description.quantize == "int8":
        return quantize_onnx(proto, description, calibration)
    compress(proto, description.quantize)
    return proto


def _written(proto: Any, description: Exported, path: Path) -> OnnxRuntime:
    """Writes the graph with its description, and opens the file."""
    del proto.metadata_props[:]
    proto.metadata_props.add(key=KEY, value=description.to_json())
    path.write_bytes(proto.SerializeToString())
    return OnnxRuntime(path, "cpu")


def _require_packages() -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        try:
            import_module(name)
        except ModuleNotFoundError as error:
            raise MissingExtraError("exporting to ONNX", "export") from error


def _graph(model: Model, description: Exported) -> Any:
    """The network as an `onnx.ModelProto`."""
    training, device = model.training, next(model.parameters()).device
    try:
        with torch.no_grad(), warnings.catch_warnings(), _quiet():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                network(model, description),
                (example(description),),
                dynamo=True,
                verbose=False,
                opset_version=OPSET_WITH_GELU if isinstance(model, KMaXDeepLab) else OPSET,
                input_names=[INPUT],
                output_names=list(OUTPUTS[description.output]),
                dynamic_shapes=None if description.size else (any_size(description),),
            )
    except Exception as error:  # whatever an exporter raises, the model is one it cannot export
        causes = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
        raise ExportError(f"{model.name or 'the model'} cannot be exported to ONNX: {causes[0]}") from error
    finally:
        model.to(device).train(training)
    assert program is not None
    return program.model_proto


def _strip(proto: Any) -> None:
    """Removes the exporter's notes: stack traces, with paths of this machine, at every node."""
    graph = proto.graph
    values = (*graph.input, *graph.output, *graph.value_info, *graph.initializer)
    for part in (proto, graph, *graph.node, *values):
        del part.metadata_props[:]
        part.doc_string = ""


class _quiet:
    """Keeps the exporter's log, which is meant for its developers, off the terminal."""

    def __enter__(self) -> None:
        self.level = logging.root.manager.disable
        logging.disable(logging.WARNING)

    def __exit__(self, *_: object) -> None:
        logging.disable(self.level)
