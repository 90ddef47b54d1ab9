"""What runs a network: PyTorch here, one class an exported format elsewhere."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..core.categories import Categories
from ..core.config import InputConfig, PostprocessConfig
from ..core.files import EXPORTED_SUFFIXES, bundled_onnx, require_content
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
        selects: whether a call takes `least`, a score, and may leave out proposals that score no more; may be
            left out by what does not.
    """

    input: InputConfig
    postprocess: PostprocessConfig
    categories: Categories

    def __call__(self, images: NDArray[Any]) -> Proposals | list[CanvasMap | ClassScores]:
        """Network inputs B×C×h×w float32 (or B×h×w×C uint8) to their proposals, without geometry.

        A file with its post-processing inside gives a panoptic map of each input instead.
        """
        ...


def run(
    runtime: Runtime, images: NDArray[Any], least: float | None
) -> Proposals | list[CanvasMap | ClassScores]:
    """What a runtime answers; one that `selects` may leave out proposals that score no more than `least`."""
    if least is not None and getattr(runtime, "selects", False):
        return runtime(images, least=least)  # type: ignore[call-arg]
    return runtime(images)


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
            if (bundled := bundled_onnx(model)) and not tta:
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


def above(proposals: Proposals, least: float) -> Proposals:
    """As NumPy arrays, without those whose score is at or below `least` in every image of the batch."""
    found = proposals.numpy()
    alive = ~(found.scores <= np.float32(least)).all(0)  # not finite: left to the post-processing
    masks = found.mask_logits[:, alive]
    return replace(found, scores=found.scores[:, alive], labels=found.labels[:, alive], mask_logits=masks)


class Replay:
    """Keeps a network's answers, so that an image in tiles can be segmented again without the network.

    Args:
        runtime: runs the network.
        keep: what is kept of an answer.
        least: no thresholds to come let proposals through that score no more; None for any.
        most: bytes of masks that are kept; the network runs again for what is beyond.

    Attributes:
        size: bytes of masks that are kept.
        whole: whether all that was asked for is kept.
    """

    def __init__(
        self,
        runtime: Runtime,
        keep: Callable[[Proposals], Proposals],
        least: float | None = None,
        *,
        most: float = math.inf,
    ) -> None:
        self.network, self.size, self.whole = runtime, 0, True
        self._keep, self._least, self._most, self._answers = keep, least, most, list[Proposals]()

    def runtime(self) -> Any:
        """A runtime for one pass over the tiles: it gives what is kept and asks the network for the rest."""
        return _Pass(self)

    def answer(self, number: int, images: NDArray[Any]) -> Any:
        """The answer to the input of that number in a pass."""
        if number < len(self._answers):
            return self._answers[number]
        found = run(self.network, images, self._least)
        if isinstance(found, Proposals):
            found = self._keep(found)
            more = self.size + found.mask_logits.nbytes
            if number == len(self._answers) and more <= self._most:
                self._answers.append(found)
                self.size = more
                return found
        self.whole = False
        return found


class _Pass:
    def __init__(self, replay: Replay) -> None:
        self._replay, self._next = replay, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._replay.network, name)

    def __call__(self, images: NDArray[Any], least: float | None = None) -> Any:
        """The proposals for all thresholds to come, whatever `least` is now."""
        self._next += 1
        return self._replay.answer(self._next - 1, images)
