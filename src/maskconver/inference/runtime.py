"""What runs a network: PyTorch here, one class an exported format elsewhere."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..core.categories import Categories
from ..core.config import InputConfig, PostprocessConfig
from ..core.proposals import Proposals
from ..errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from .exported import CanvasMap, Exported

BUNDLED = Path(__file__).parents[1] / "weights"


class Runtime(Protocol):
    """What runs a network: PyTorch here, one class an exported format elsewhere.

    Attributes:
        input: how images are brought to the network.
        postprocess: the thresholds the model was made with.
        categories: its label set.
    """

    input: InputConfig
    postprocess: PostprocessConfig
    categories: Categories

    def __call__(self, images: NDArray[np.float32]) -> Proposals:
        """Canvases B×3×h×w float32 to their proposals, without geometry."""
        ...


def panoptic(runtime: Runtime) -> Callable[[NDArray[np.float32]], list[CanvasMap]] | None:
    """What gives the panoptic maps of canvases, where the runtime's file has the merge inside."""
    file: Exported | None = getattr(runtime, "file", None)
    return runtime.canvas_maps if file and file.output == "panoptic" else None  # type: ignore[attr-defined]


def open_runtime(model: Any, device: str | None = None, proposals: int | None = None) -> Runtime:
    """The runtime for a model; the one place where it is chosen.

    Args:
        model: a bundled name (without PyTorch, its ONNX file is run), a model file, a run's folder or an
            exported `.onnx`, `.tflite` or `.pt2` file; a loaded `nn.Module`; or a runtime.
        device: for PyTorch: `cpu`, `cuda`, `cuda:1`, `mps`; the best there is if left out. For files:
            `cpu`, for ONNX also `cuda`; the CPU if left out.
        proposals: masks an image to ask for; the model's own number if left out.

    Raises:
        CheckpointError: no such model, or a file that cannot be loaded.
        MissingExtraError: PyTorch, or what runs the file, is not installed.
    """
    if isinstance(model, str | os.PathLike):
        if os.fspath(model).lower().endswith(".onnx"):
            from .onnx import OnnxRuntime

            return OnnxRuntime(model, device, proposals)
        if os.fspath(model).lower().endswith(".tflite"):
            from .litert import LiteRtRuntime

            return LiteRtRuntime(model, device, proposals)
        if os.fspath(model).lower().endswith(".pt2"):
            from .torch import TorchExportRuntime

            return TorchExportRuntime(model, device, proposals)
        try:
            from ..models import checkpoint
        except ModuleNotFoundError as error:
            if (bundled := BUNDLED / f"{os.fspath(model)}.onnx").is_file() and not Path(model).exists():
                from .onnx import OnnxRuntime

                return OnnxRuntime(bundled, device, proposals)
            raise MissingExtraError(f'running "{os.fspath(model)}"', "train") from error
        from .torch import TorchRuntime, best_device

        return TorchRuntime(checkpoint.load(model).optimized(), device or best_device(), proposals)
    if hasattr(model, "state_dict"):  # an nn.Module, without importing torch
        from .torch import TorchRuntime

        return TorchRuntime(model, device, proposals)
    if callable(model) and hasattr(model, "categories"):
        return model
    raise ConfigError(f"cannot run a {type(model).__name__}; give a model's name, file or module")
