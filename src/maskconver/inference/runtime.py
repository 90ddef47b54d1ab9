"""What runs a network: PyTorch here, one class an exported format elsewhere."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from numpy.typing import NDArray

from ..core.categories import Categories
from ..core.config import InputConfig, PostprocessConfig
from ..core.files import EXPORTED_SUFFIXES, WEIGHTS, require_content
from ..core.proposals import Proposals
from ..errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from .exported import CanvasMap, ClassScores


class Runtime(Protocol):
    """What runs a network: PyTorch here, one class an exported format elsewhere.

    Attributes:
        input: how images are brought to the network.
        postprocess: the thresholds the model was made with.
        categories: its label set.
        dtype: `np.uint8` where it takes bytes, see `prepare`; may be left out by what takes float32.
    """

    input: InputConfig
    postprocess: PostprocessConfig
    categories: Categories

    def __call__(self, images: NDArray[Any]) -> Proposals | list[CanvasMap | ClassScores]:
        """Network inputs B×C×h×w float32 (or B×h×w×C uint8) to their proposals, without geometry.

        A file with its post-processing inside gives a panoptic map of each input instead.
        """
        ...


def has_postprocessing(runtime: Runtime) -> bool:
    """Whether it is a file with its post-processing inside, which cannot be changed."""
    return getattr(getattr(runtime, "file", None), "output", "proposals") != "proposals"


def open_runtime(
    model: Any, device: str | None = None, proposals: int | None = None, *, tta: bool = False
) -> Runtime:
    """The runtime for a model; the one place where it is chosen.

    Args:
        model: a bundled name (without PyTorch, its ONNX file is run), a model file, a run's folder or an
            exported `.onnx`, `.tflite` or `.pt2` file; a loaded `nn.Module`; or a runtime.
        device: for PyTorch: `cpu`, `cuda`, `cuda:1`, `mps`; the best there is if left out. For files:
            `cpu`, for ONNX also `cuda`; the CPU if left out.
        proposals: number of masks per image; the model's own number if left out.
        tta: average over each image and its mirror image, in PyTorch only.

    Raises:
        CheckpointError: no such model, or a file that cannot be loaded.
        ConfigError: `tta` with an exported file, or a model that it is not made for.
        MissingExtraError: PyTorch, or what runs the file, is not installed.
    """
    if isinstance(model, str | os.PathLike):
        require_content(model)
        if tta and os.fspath(model).lower().endswith(EXPORTED_SUFFIXES):
            raise ConfigError(f"`tta` runs in PyTorch only; give the model that {model} was exported from")
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
            bundled = WEIGHTS / f"{os.fspath(model)}.onnx"
            if bundled.is_file() and not Path(model).exists() and not tta:
                from .onnx import OnnxRuntime

                return OnnxRuntime(bundled, device, proposals)
            raise MissingExtraError(f'running "{os.fspath(model)}"', "train") from error
        from .torch import TorchRuntime, best_device

        return TorchRuntime(checkpoint.load(model).optimized(), device or best_device(), proposals, tta=tta)
    if hasattr(model, "state_dict"):  # an nn.Module, without importing torch
        from .torch import TorchRuntime

        return TorchRuntime(model, device, proposals, tta=tta)
    if callable(model) and hasattr(model, "categories"):
        if tta:
            raise ConfigError(f"`tta` runs in PyTorch only, not in a {type(model).__name__}")
        return model
    raise ConfigError(f"cannot run a {type(model).__name__}; give a model's name, file or module")
