"""Runs exported LiteRT (TensorFlow Lite) files with LiteRT and NumPy, without PyTorch."""

from __future__ import annotations

import os
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import CheckpointError, ConfigError, MissingExtraError, one_line
from .exported import INPUT, KEY, OUTPUTS, Exported, FileRuntime, operator_threads, require_file
from .silence import silenced

IDENTIFIER = b"TFL3"  # at byte 4 of every such file


class LiteRtRuntime(FileRuntime):
    """A file written by `maskconver export --to litert`; see `Runtime` for the attributes.

    Args:
        path: the file.
        device: `cpu`, the only one there is here.
        proposals: number of masks per image, at most as many as the file gives; all of them if left out.
        threads: of one operator; if left out, `OMP_NUM_THREADS` or the cores the process may use.

    Raises:
        CheckpointError: no such file, or not one that `maskconver export` wrote.
        ConfigError: another device, or more proposals than the file gives.
        MissingExtraError: LiteRT is not installed.
    """

    channels_last = True

    def __init__(
        self,
        path: str | os.PathLike[str],
        device: str | None = None,
        proposals: int | None = None,
        *,
        threads: int | None = None,
    ) -> None:
        require_file(path)
        if (device or "cpu").partition(":")[0] != "cpu":
            raise ConfigError(f'device "{device}" cannot run LiteRT files here; there is cpu')
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ModuleNotFoundError as error:
            raise MissingExtraError(f'running "{os.fspath(path)}"', "litert") from error
        super().__init__(path, Exported.from_json(_description(path), path), proposals)
        self._lock = threading.Lock()  # an interpreter has one set of tensors
        threads = threads or operator_threads() or os.cpu_count() or 1
        try:
            with silenced():
                self._interpreter = Interpreter(os.fspath(path), num_threads=threads)
                self._interpreter.allocate_tensors()
                self._run_signature = self._interpreter.get_signature_runner()
        except (ValueError, RuntimeError) as error:
            reason = one_line(error)
            raise CheckpointError(f"{path} is not a LiteRT file that can be run ({reason})") from error
        inputs = self._run_signature.get_input_details().items()
        given = [(name, np.dtype(one["dtype"]).name) for name, one in inputs]
        expected = (INPUT, "uint8" if self.file.uint8 else "float32")
        self._require(given, expected, sorted(self._run_signature.get_output_details()))

    def _answer(self, canvas: NDArray[Any]) -> list[NDArray[Any]]:
        with self._lock:
            answer = self._run_signature(**{INPUT: canvas})
        return [answer[name] for name in OUTPUTS[self.file.output]]


def _description(path: str | os.PathLike[str]) -> str | None:
    """The text that `maskconver export` left in the file's metadata, if any.

    Raises:
        CheckpointError: not a TensorFlow Lite file.
    """
    from ai_edge_litert.schema_py_generated import Model

    content = np.memmap(path, np.uint8, "r") if os.path.getsize(path) else np.empty(0, np.uint8)  # noqa: PTH202
    if content[4:8].tobytes() != IDENTIFIER:
        raise CheckpointError(f"{path} is not a LiteRT file that can be run")
    try:
        model = Model.GetRootAs(content, 0)
        for i in range(model.MetadataLength()):
            entry = model.Metadata(i)
            if entry.Name() == KEY.encode():
                return bytes(model.Buffers(entry.Buffer()).DataAsNumpy()).decode()
    except Exception as error:  # flatbuffers checks nothing: damaged offsets end in whatever they meet
        raise CheckpointError(f"{path} is damaged ({error}); export the model again") from error
    return None
