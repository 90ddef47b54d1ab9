"""Runs exported ONNX files with ONNX Runtime and NumPy, without PyTorch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .canvas_map import CanvasMap
from .errors import CheckpointError, ConfigError, MissingExtraError
from .exported import INPUT, KEY, OUTPUTS, Exported
from .proposals import Proposals

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OnnxRuntime:
    """A file written by `maskconver export --to onnx`; see `Runtime` for the attributes.

    Args:
        path: the file.
        device: `cpu` or `cuda`; the CPU if left out.
        proposals: masks an image to ask for, at most as many as the file gives; all of them if left out.
        threads: of one operator; if left out, `OMP_NUM_THREADS` or, where the process may not use all cores,
            the number of those it may use.

    Raises:
        CheckpointError: no such file, or not one that `maskconver export` wrote.
        ConfigError: a device that is not there, or more proposals than the file gives.
        MissingExtraError: ONNX Runtime is not installed.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        device: str | None = None,
        proposals: int | None = None,
        threads: int | None = None,
    ) -> None:
        if not Path(path).is_file():
            raise CheckpointError(f'no model file "{path}"')
        try:
            import onnxruntime
        except ModuleNotFoundError as error:
            raise MissingExtraError(f'running "{os.fspath(path)}"', "onnx") from error
        self.path = path
        self._session = _session(onnxruntime, path, _provider(onnxruntime, device), threads)
        self.file = Exported.from_json(self._session.get_modelmeta().custom_metadata_map.get(KEY), path)
        self.input, self.merge, self.categories = self.file.input, self.file.merge, self.file.categories
        self._check_signature()
        if proposals is not None and self.file.output == "panoptic":
            raise ConfigError(
                f"{path} has its merge and its number of proposals inside; export it with another"
            )
        if proposals is not None and not 1 <= proposals <= self.file.proposals:
            raise ConfigError(
                f"{path} gives {self.file.proposals} proposals, not {proposals}; "
                f"export the model with --proposals {proposals}"
            )
        self.proposals = proposals or self.file.proposals

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
        answers = self._run(images)
        scores, labels, masks = (
            np.concatenate(column) if len(column) > 1 else column[0] for column in zip(*answers)
        )
        # Sorted by score, so fewer proposals are the first ones.
        k = self.proposals
        return Proposals(scores[:, :k], labels[:, :k], masks[:, :k])

    def canvas_maps(self, images: NDArray[np.float32]) -> list[CanvasMap]:
        """As a call, for a file that gives panoptic maps: one a canvas."""
        return [CanvasMap(*(part[0] for part in answer)) for answer in self._run(images)]

    def _run(self, images: NDArray[np.float32]) -> list[list[NDArray[Any]]]:
        """The outputs for every canvas; files take one at a time.

        A batch is no faster on a CPU, and phones want fixed sizes.
        """
        self._check_canvases(images)
        fed = self.to_uint8(images) if self.file.uint8 else images
        names = OUTPUTS[self.file.output]
        return [self._session.run(names, {INPUT: fed[i : i + 1]}) for i in range(len(fed))]

    def to_uint8(self, images: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Normalised canvases B×3×h×w float32 back to bytes B×h×w×3; padding becomes the mean colour."""
        mean, std = (255 * np.array(v, np.float32) for v in (self.input.mean, self.input.std))
        pixels = images.transpose(0, 2, 3, 1) * std
        pixels += mean + np.float32(0.5)
        return np.clip(pixels, 0, 255).astype(np.uint8)

    def _check_signature(self) -> None:
        """Refuses files whose inputs and outputs are not what their description says."""
        given = [(i.name, i.type) for i in self._session.get_inputs()]
        expected = (INPUT, "tensor(uint8)" if self.file.uint8 else "tensor(float)")
        outputs = tuple(o.name for o in self._session.get_outputs())
        names = OUTPUTS[self.file.output]
        if given != [expected] or outputs != names:
            raise CheckpointError(
                f"{self.path} takes {given} and gives {', '.join(outputs)}, but maskconver's files take "
                f"{[expected]} and give {', '.join(names)}; export the model again"
            )

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


def _provider(onnxruntime: Any, device: str | None) -> str:
    kind = (device or "cpu").partition(":")[0]
    there = [k for k, name in PROVIDERS.items() if name in onnxruntime.get_available_providers()]
    if kind not in there:
        raise ConfigError(f'device "{device}" cannot run ONNX files here; there is {", ".join(there)}')
    return PROVIDERS[kind]


def _session(onnxruntime: Any, path: str | os.PathLike[str], provider: str, threads: int | None) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = _threads() if threads is None else threads
    options.log_severity_level = 3  # errors only; they are raised as well
    # Weights of 8 bits are made floating point once, when the file is opened, not at every image.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    try:
        return onnxruntime.InferenceSession(os.fspath(path), options, providers=[provider])
    except Exception as error:  # ONNX Runtime's errors have no common class but this one
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path} is not an ONNX file that can be run ({reason})") from error


def _threads() -> int:
    """Threads of an operator; 0 lets ONNX Runtime choose."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdecimal() and int(asked):
        return int(asked)
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    return allowed if allowed < (os.cpu_count() or 0) else 0
