"""`.pt2` files of torch.export: a graph that PyTorch runs without this package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..inference.exported import KEY, Exported
from ..inference.torch import TorchExportRuntime
from .network import example, free_dimensions
from .options import Format


class TorchExport(Format):
    """Graphs are `torch.export.ExportedProgram`."""

    name, title, suffix = "torch-export", "torch.export", ".pt2"
    precisions = ("none",)
    ordered_topk = False

    def trace(self, network: nn.Module, description: Exported, opset: int) -> Any:
        """See `Format.trace`."""
        return torch.export.export(
            network,
            (example(description),),
            dynamic_shapes=free_dimensions(description),
        )

    def write(self, graph: Any, description: Exported, path: Path) -> None:
        """See `Format.write`."""
        torch.export.save(graph, path, extra_files={KEY: description.to_json()} | description.plain())

    def open(self, path: Path) -> TorchExportRuntime:
        """See `Format.open`."""
        return TorchExportRuntime(path, "cpu")
