"""Writes a model as one ONNX file: the network up to `Proposals`."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .. import __version__
from ..config import InputConfig
from ..errors import ConfigError, ExportError, MissingExtraError
from ..exported import KEY, Exported, Precision
from ..files import atomic_path
from ..models.registry import Model
from ..onnx_runtime import INPUT, OUTPUTS, OnnxRuntime
from .compare import Comparison, compare, require_equal
from .compress import compress

OPSET = 18  # of ONNX Runtime 1.14 and OpenVINO 2023 on
MULTIPLE = 32  # of the sides of files that take any size


def export_onnx(
    model: Model,
    path: str | os.PathLike[str],
    *,
    size: tuple[int, int] | None = None,
    dynamic: bool = False,
    proposals: int | None = None,
    quantize: Precision = "none",
    uint8: bool = False,
    images: Sequence[NDArray[np.uint8]] | None = None,
) -> Comparison:
    """Writes a model to one ONNX file, runs it, and keeps it only if it answers as the model does.

    The file's input is `images`, 1×3×h×w float32 normalised (1×h×w×3 uint8 RGB with `uint8`); its outputs
    are the fields of `Proposals`: `scores` 1×N float32, `labels` 1×N int64, `mask_logits` 1×N×h'×w' float32.

    Args:
        model: any MaskConver of RGB images; unchanged.
        path: ends in `.onnx`; an older file is replaced.
        size: (height, width) of the canvas, to which pictures are then scaled; the model's own if left out.
        dynamic: the file takes canvases of any size that is a multiple of 32; otherwise of `size`. Models
            that keep pictures at their own size need this or a `size`.
        proposals: masks an image; the model's number if left out.
        quantize: how weights are stored: `none` float32; `fp16`; `int8-weights`, a scale a channel. All
            calculate in float32.
        uint8: scaling to 0…1, mean and std are part of the file. Padding must then be the mean colour.
        images: H×W×3 uint8 pictures the file is compared on; generated ones if left out.

    Returns:
        How much the file's answers differ from the model's.

    Raises:
        ConfigError: an option that does not fit the model.
        ExportError: the model cannot be exported, or the file differs from it; `path` is then as it was.
        MissingExtraError: onnx, onnxscript or onnxruntime is not installed.
    """
    _require_packages()
    description = _describe(model, size, dynamic, proposals, quantize, uint8)
    if Path(path).suffix != ".onnx":
        raise ConfigError(f'{path} does not end in ".onnx", by which the file is known later')
    with atomic_path(path) as temporary:
        proto = _graph(model, description)
        _strip(proto)
        compress(proto, quantize)
        proto.metadata_props.add(key=KEY, value=description.to_json())
        temporary.write_bytes(proto.SerializeToString())
        result = compare(model, OnnxRuntime(temporary, "cpu"), images)
        require_equal(result, quantize)
    return result


def _require_packages() -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        try:
            import_module(name)
        except ModuleNotFoundError as error:
            raise MissingExtraError("exporting to ONNX", "export") from error


def _describe(
    model: Model,
    size: tuple[int, int] | None,
    dynamic: bool,
    proposals: int | None,
    quantize: Precision,
    uint8: bool,
) -> Exported:
    """What the file will say about itself, after a look at whether all that fits together."""
    own: InputConfig = model.input
    if model.categories is None:
        raise ConfigError("the model has no categories, which the file must name; make it with categories=…")
    if model.merge.rule != "maskconver":
        raise ConfigError(
            f'export takes MaskConver models; those of the merge rule "{model.merge.rule}" not yet'
        )
    if model.config.in_channels != 3:
        raise ConfigError(f"export takes models of RGB images, not of {model.config.in_channels} channels")
    if dynamic and size is not None:
        raise ConfigError("a file is of one size or of any: leave out either --size or --dynamic")
    if own.mode == "native" and size is None and not dynamic:
        raise ConfigError(
            "the model takes pictures at their own size: give --dynamic, or --size H W to scale them"
        )
    if size is not None and min(size) < 1:
        raise ConfigError(f"size {size[0]}×{size[1]} is not possible; height and width must be 1 or more")
    if proposals is not None and proposals < 1:
        raise ConfigError(f"{proposals} proposals are not possible; ask for 1 or more")
    step = max(own.multiple, MULTIPLE) if dynamic else 1
    if dynamic and (step % MULTIPLE or (own.mode == "fit" and any(n % step for n in own.size))):
        raise ConfigError(f"--dynamic needs a canvas in multiples of {MULTIPLE}; give --size H W")
    fixed = None if dynamic else size or own.size
    return Exported(
        name=model.name,
        version=__version__,
        size=fixed,
        multiple=step,
        proposals=proposals or model.config.proposals,
        uint8=uint8,
        quantize=quantize,
        input=replace(own, mode="fit", size=fixed) if fixed else replace(own, multiple=step),
        merge=model.merge,
        categories=model.categories,
    )


class _Network(nn.Module):
    """The model as a function of tensors, which is what exporters take."""

    factor: Tensor
    summand: Tensor

    def __init__(self, model: Model, description: Exported) -> None:
        super().__init__()
        self.model, self.proposals, self.uint8 = model, description.proposals, description.uint8
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (description.input.mean, description.input.std))
        self.register_buffer("factor", 1 / (255 * std))
        self.register_buffer("summand", -mean / std)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.uint8:
            images = images.permute(0, 3, 1, 2).float() * self.factor + self.summand
        found = self.model.predict(images, self.proposals)
        return found.scores, found.labels, found.mask_logits


def _graph(model: Model, description: Exported) -> Any:
    """The network as an `onnx.ModelProto`."""
    training, device = model.training, next(model.parameters()).device
    network = _Network(model, description).to("cpu").eval()
    height, width = description.size or (4 * description.multiple, 5 * description.multiple)
    example = torch.zeros(1, 3, height, width)
    if description.uint8:
        example = example.permute(0, 2, 3, 1).contiguous().to(torch.uint8)
    try:
        with torch.no_grad(), warnings.catch_warnings(), _quiet():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                network,
                (example,),
                dynamo=True,
                verbose=False,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=list(OUTPUTS),
                dynamic_shapes=None if description.size else (_any_size(description),),
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


def _any_size(description: Exported) -> dict[int, Any]:
    """Dimensions of the input that are not fixed, by their position."""
    step, first = description.multiple, 1 if description.uint8 else 2
    rows, columns = (torch.export.Dim(name, min=1, max=1024) for name in ("rows", "columns"))
    return {first: step * rows, first + 1: step * columns}


class _quiet:
    """Keeps the exporter's log, which is meant for its developers, off the terminal."""

    def __enter__(self) -> None:
        self.level = logging.root.manager.disable
        logging.disable(logging.WARNING)

    def __exit__(self, *_: object) -> None:
        logging.disable(self.level)
