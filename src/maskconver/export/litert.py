"""LiteRT (TensorFlow Lite) files: for phones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..inference.exported import INPUT, KEY, OUTPUTS, Exported
from ..inference.litert import LiteRtRuntime
from ..models.optimize import fold_batch_norms
from . import mediapipe
from .litert_quantize import quantize_litert
from .network import example
from .options import Format


class LiteRt(Format):
    """Graphs are the bytes of a file without its description. Files have one size and channels last."""

    name, title, suffix = "litert", "LiteRT", ".tflite"
    packages, quantizers = ("litert_torch", "ai_edge_litert"), ("ai_edge_quantizer",)
    dynamic = False

    def trace(self, network: nn.Module, description: Exported, opset: int = 0) -> bytes:
        """See `Format.trace`; batch norms are folded into convolutions in place."""
        import litert_torch

        given = example(description)
        fold_batch_norms(network, given)
        module = _Named(network, OUTPUTS[description.output]).eval()
        if not description.uint8:
            given = given.permute(0, 2, 3, 1).contiguous()
        shown, litert_torch.config.show_progress = litert_torch.config.show_progress, False
        try:
            with _spread_by_resizing():
                content: bytes = litert_torch.convert(module, sample_kwargs={INPUT: given}).model_content()
        finally:
            litert_torch.config.show_progress = shown
        return content

    def quantize(
        self, graph: bytes, description: Exported, calibration: Sequence[NDArray[np.uint8]]
    ) -> bytes:
        """See `Format.quantize`."""
        return quantize_litert(graph, description, calibration)

    def write(self, graph: bytes, description: Exported, path: Path) -> None:
        """See `Format.write`."""
        entries: dict[str, str | bytes] = {KEY: description.to_json(), **description.plain()}
        if description.output == "semantic":
            entries[mediapipe.KEY] = mediapipe.segmenter_metadata(description)
        content = described(graph, entries)
        if description.output == "semantic":
            content = mediapipe.with_labels(content, description.categories.names)
        path.write_bytes(content)

    def open(self, path: Path) -> LiteRtRuntime:
        """See `Format.open`."""
        return LiteRtRuntime(path, "cpu")


class _Named(nn.Module):
    """A network with channels last in and answers by name out, as LiteRT has them."""

    def __init__(self, network: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.network, self.names = network, names

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        fed = images if images.dtype == torch.uint8 else images.permute(0, 3, 1, 2)
        answer = self.network(fed)
        if self.names == OUTPUTS["semantic"]:
            answer = (answer[0].permute(0, 2, 3, 1),)
        return dict(zip(self.names, answer))


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


def described(content: bytes, entries: Mapping[str, str | bytes]) -> bytes:
    """The file with entries in its metadata, and without the names of modules at every tensor."""
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils as flatbuffers

    # As an array, not bytes: those are written back one by one.
    model = flatbuffers.read_model_from_bytearray(np.frombuffer(content, np.uint8))
    for graph in model.subgraphs:
        for i, tensor in enumerate(graph.tensors):
            tensor.name = f"t{i}".encode()
    for name, data in entries.items():
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(data.encode() if isinstance(data, str) else data, np.uint8)
        model.buffers.append(buffer)
        entry = schema.MetadataT()
        entry.name, entry.buffer = name.encode(), len(model.buffers) - 1
        model.metadata = [*(model.metadata or []), entry]
    return bytes(flatbuffers.convert_object_to_bytearray(model))
