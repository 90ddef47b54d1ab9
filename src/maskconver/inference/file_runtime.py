"""What all runtimes of exported files share: canvases are checked and fed one at a time, answers gathered."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.config import InputConfig
from ..core.proposals import Proposals
from ..errors import CheckpointError, ConfigError
from .canvas_map import CanvasMap
from .exported import Exported


class FileRuntime(ABC):
    """A file written by `maskconver export`; see `Runtime` for the attributes.

    A format gives `_answer`, which runs one canvas, and whether it wants channels last.

    Args:
        path: the file.
        file: its description.
        proposals: masks an image to ask for, at most as many as the file gives; all of them if left out.

    Raises:
        ConfigError: more proposals than the file gives.
    """

    channels_last = False

    def __init__(self, path: str | os.PathLike[str], file: Exported, proposals: int | None) -> None:
        self.path, self.file = path, file
        self.input, self.merge, self.categories = file.input, file.merge, file.categories
        if proposals is not None and file.output == "panoptic":
            raise ConfigError(
                f"{path} has its merge and its number of proposals inside; export it with another"
            )
        if proposals is not None and not 1 <= proposals <= file.proposals:
            raise ConfigError(
                f"{path} gives {file.proposals} proposals, not {proposals}; "
                f"export the model with --proposals {proposals}"
            )
        self.proposals = proposals or file.proposals

    def __repr__(self) -> str:
        return f"{self.file.name} in {Path(self.path).name}"

    def __call__(self, images: NDArray[np.float32]) -> Proposals:
        """Normalised canvases B×3×h×w float32 to their proposals, without geometry.

        Raises:
            ConfigError: canvases of another dtype, number of channels or size than the file takes; a file
                that gives panoptic maps instead.
        """
        if self.file.output == "panoptic":
            raise ConfigError(
                f"{self.path} gives panoptic maps, not proposals; export it with --output proposals"
            )
        scores, labels, masks = (
            np.concatenate(column) if len(column) > 1 else column[0] for column in zip(*self._run(images))
        )
        # Sorted by score, so fewer proposals are the first ones.
        k = self.proposals
        return Proposals(scores[:, :k], labels[:, :k].astype(np.int64, copy=False), masks[:, :k])

    def canvas_maps(self, images: NDArray[np.float32]) -> list[CanvasMap]:
        """As a call, for a file that gives panoptic maps: one a canvas."""
        return [CanvasMap(*(part[0] for part in answer)) for answer in self._run(images)]

    def to_uint8(self, images: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Normalised canvases B×3×h×w float32 back to bytes B×h×w×3; padding becomes the mean colour."""
        return to_uint8(images, self.input)

    @abstractmethod
    def _answer(self, canvas: NDArray[Any]) -> list[NDArray[Any]]:
        """One canvas, as the file takes it, to the file's outputs in the order of `OUTPUTS`."""

    def _run(self, images: NDArray[np.float32]) -> list[list[NDArray[Any]]]:
        """The outputs for every canvas; files take one at a time.

        A batch is no faster on a CPU, and phones want fixed sizes.
        """
        self._check_canvases(images)
        fed = as_fed(images, self.file, self.channels_last)
        return [self._answer(fed[i : i + 1]) for i in range(len(fed))]

    def _check_canvases(self, images: NDArray[Any]) -> None:
        channels = len(self.input.mean)
        if images.dtype != np.float32 or images.ndim != 4 or images.shape[1] != channels:
            raise ConfigError(
                f"{self.path} runs canvases B×{channels}×h×w float32, "
                f"not {'×'.join(str(n) for n in images.shape)} {images.dtype}"
            )
        (height, width), size, step = images.shape[2:], self.file.size, self.file.multiple
        if size is not None and (height, width) != tuple(size):
            raise ConfigError(
                f"{self.path} takes {size[0]}×{size[1]}, not {height}×{width}; export with "
                f"--size {height} {width} or --dynamic"
            )
        if size is None and (height % step or width % step or not height or not width):
            raise ConfigError(f"{self.path} takes sides that are multiples of {step}, not {height}×{width}")


def as_fed(images: NDArray[np.float32], file: Exported, channels_last: bool) -> NDArray[Any]:
    """Normalised canvases B×3×h×w float32 as a file takes them: bytes, or channels last, or as they are."""
    if file.uint8:
        return to_uint8(images, file.input)
    # Plane by plane: five times as fast as copying the transposed array.
    return np.stack([images[:, i] for i in range(images.shape[1])], -1) if channels_last else images


def to_uint8(images: NDArray[np.float32], config: InputConfig) -> NDArray[np.uint8]:
    """Normalised canvases B×3×h×w float32 back to bytes B×h×w×3; padding becomes the mean colour."""
    mean, std = (255 * np.array(v, np.float32) for v in (config.mean, config.std))
    pixels = images.transpose(0, 2, 3, 1) * std
    pixels += mean + np.float32(0.5)
    return np.clip(pixels, 0, 255).astype(np.uint8)


def require_file(path: str | os.PathLike[str]) -> None:
    """Refuses a path where there is no file.

    Raises:
        CheckpointError: naming it.
    """
    if not Path(path).is_file():
        raise CheckpointError(f'no model file "{path}"')


def operator_threads() -> int:
    """Threads of an operator: `OMP_NUM_THREADS`, or the cores the process may use if not all; else 0."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdecimal() and int(asked):
        return int(asked)
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    return allowed if allowed < (os.cpu_count() or 0) else 0
