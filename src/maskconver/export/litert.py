"""Writes a model as one LiteRT (TensorFlow Lite) file: the network up to `Proposals`."""

from __future__ import annotations

import copy
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..core.files import atomic_path
from ..errors import ConfigError, ExportError, MissingExtraError
from ..inference.exported import INPUT, KEY, OUTPUTS, Exported, Output, Precision
from ..inference.litert import LiteRtRuntime
from ..inference.silence import silenced
from ..models.optimize import fold_batch_norms
from ..models.registry import Model
from .compare import Comparison, compare, compare_panoptic, require_alike, require_equal
from .litert_quantize import quantize_litert
from .network import check_calibration, compared_on, describe, example, network

SUFFIX = ".tflite"


def export_litert(
    model: Model,
    path: str | os.PathLike[str],
    *,
    size: tuple[int, int] | None = None,
    proposals: int | None = None,
    quantize: Precision = "none",
    uint8: bool = False,
    output: Output = "proposals",
    calibration: Sequence[NDArray[np.uint8]] | None = None,
    images: Sequence[NDArray[np.uint8]] | None = None,
) -> Comparison:
    """Writes a model to one LiteRT file, runs it, and keeps it only if it answers as the model does.

    The file has one size. Its input is `images`, 1×h×w×3 float32 normalised (uint8 RGB with `uint8`); its
    outputs are the fields of `Proposals`: `scores` 1×N float32, `labels` 1×N int32, `mask_logits` 1×N×h'×w'
    float32; or those of `CanvasMap` with a first dimension of 1.

    Args:
        model: any MaskConver of RGB images; unchanged.
        path: ends in `.tflite`; an older file is replaced.
        size: (height, width) of the canvas, to which pictures are then scaled; the model's own if left out.
        proposals: masks an image; the model's number if left out.
        quantize: `none` float32; `fp16` and `int8-weights` store weights so and calculate in float32; `int8`
            calculates in 8 bits, with the ranges seen on `calibration`.
        uint8: scaling to 0…1, mean and std are part of the file. Padding must then be the mean colour.
        output: `proposals`, or `panoptic` with the merge in the file.
        calibration: H×W×3 uint8 pictures such as the file will see; for `int8`.
        images: H×W×3 uint8 pictures the file is compared on; some of `calibration`, or generated ones, if
            left out.

    Returns:
        How much the file's answers differ from the model's.

    Raises:
        ConfigError: an option that does not fit the model.
        ExportError: the model cannot be exported, or the file differs from it; `path` is then as it was.
        MissingExtraError: litert-torch, ai-edge-quantizer or ai-edge-litert is not installed.
    """
    _require_packages(quantize)
    description = describe(model, size, False, proposals, quantize, uint8, output)
    if Path(path).suffix != SUFFIX:
        raise ConfigError(f'{path} does not end in "{SUFFIX}", by which the file is known later')
    check_calibration(quantize, calibration)
    images = images or compared_on(calibration)
    with atomic_path(path) as temporary:
        content = _graph(model, description)
        quantized = quantize_litert(content, description, calibration)
        if output == "panoptic":
            # In full precision first, as quantised maps may differ in many pixels.
            result: Comparison = compare_panoptic(model, _written(content, description, temporary), images)
            require_equal(result, "none")
            if quantize != "none":
                result = compare_panoptic(model, _written(quantized, description, temporary), images)
                require_alike(result)
            return result
        result = compare(model, _written(quantized, description, temporary), images)
        require_equal(result, quantize)
    return result


def _graph(model: Model, description: Exported) -> bytes:
    """The network as a float file without its description."""
    module = network(copy.deepcopy(model), description)
    return convert(module, example(description), OUTPUTS[description.output], model.name or "the model")


def _written(content: bytes, description: Exported, path: Path) -> LiteRtRuntime:
    """Writes the file with its description, and opens it."""
    path.write_bytes(_described(content, description.to_json()))
    return LiteRtRuntime(path, "cpu")


def convert(
    network: nn.Module,
    example: Tensor,
    outputs: Sequence[str] = OUTPUTS["proposals"],
    name: str = "the network",
) -> bytes:
    """Any network as a LiteRT file, without our description.

    Args:
        network: takes `example`, gives one tensor for each of `outputs`; on the CPU in evaluation mode.
            Batch norms are folded into convolutions in place.
        example: 1×3×h×w float32, for which the file takes `images` as 1×h×w×3; or 1×h×w×3 uint8.
        outputs: names of what it gives; 64-bit integers become 32-bit ones.
        name: of the network, for error messages.

    Raises:
        ExportError: an operator that LiteRT does not have.
    """
    with silenced():
        import litert_torch

    fold_batch_norms(network, example)
    module = _Named(network, tuple(outputs)).eval()
    given = example if example.dtype == torch.uint8 else example.permute(0, 2, 3, 1).contiguous()
    try:
        with torch.no_grad(), _quiet(), _spread_by_resizing():
            converted = litert_torch.convert(module, sample_kwargs={INPUT: given})
            content: bytes = converted.model_content()
    except Exception as error:  # whatever a converter raises, the model is one it cannot convert
        causes = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
        raise ExportError(f"{name} cannot be exported to LiteRT: {causes[0]}") from error
    return content


class _Named(nn.Module):
    """A network with channels last in and answers by name out, as LiteRT has them."""

    def __init__(self, network: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.network, self.names = network, names

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        fed = images if images.dtype == torch.uint8 else images.permute(0, 3, 1, 2)
        return dict(zip(self.names, self.network(fed)))


@contextmanager
def _spread_by_resizing() -> Iterator[None]:
    """One cell spread over a map becomes a resize to the nearest, which gives the same values.

    litert-torch 0.10 brings channels last in the result of such an `expand`, but not in what it takes, and
    LiteRT refuses the file.
    """
    from litert_torch.fx_infra import decomp

    aten = torch.ops.aten

    def spread(x: Tensor, size: Sequence[int], *, implicit: bool = False) -> Tensor:
        if x.dim() == 4 and len(size) == 4 and tuple(x.shape[2:]) == (1, 1) != tuple(size[2:]):
            return aten.upsample_nearest2d.vec(x, list(size[2:]), None)
        return NotImplemented

    tables = decomp._pre_convert_decomp, decomp._pre_lower_decomp
    before = [dict(table) for table in tables]
    decomp.add_pre_convert_decomp(aten.expand.default, spread)
    try:
        yield
    finally:
        for table, old in zip(tables, before):
            table.clear()
            table.update(old)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the converter's progress, log and warnings off the terminal; its developers read them."""
    import litert_torch

    shown, level = litert_torch.config.show_progress, logging.root.manager.disable
    litert_torch.config.show_progress = False
    logging.disable(logging.WARNING)
    try:
        with silenced(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        litert_torch.config.show_progress = shown
        logging.disable(level)


def _described(content: bytes, text: str) -> bytes:
    """The file with a description in its metadata, and without the names of modules at every tensor."""
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils as flatbuffers

    # As an array, not bytes: those are written back one by one.
    model = flatbuffers.read_model_from_bytearray(np.frombuffer(content, np.uint8))
    for graph in model.subgraphs:
        for i, tensor in enumerate(graph.tensors):
            tensor.name = f"t{i}".encode()
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(text.encode(), np.uint8)
    model.buffers.append(buffer)
    entry = schema.MetadataT()
    entry.name, entry.buffer = KEY.encode(), len(model.buffers) - 1
    model.metadata = [*(model.metadata or []), entry]
    return bytes(flatbuffers.convert_object_to_bytearray(model))


def _require_packages(quantize: Precision) -> None:
    names = ["litert_torch", "ai_edge_litert"] + (["ai_edge_quantizer"] if quantize != "none" else [])
    for name in names:
        try:
            with silenced():
                import_module(name)
        except ModuleNotFoundError as error:
            raise MissingExtraError("exporting to LiteRT", "export") from error
