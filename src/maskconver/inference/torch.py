"""Runs exported `.pt2` files with PyTorch."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import CheckpointError, ConfigError, MissingExtraError
from .exported import KEY, Exported
from .file_runtime import FileRuntime, require_file

FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


class TorchExportRuntime(FileRuntime):
    """A file written by `maskconver export --to torch-export`; see `Runtime` for the attributes.

    Args:
        path: the file.
        device: as of a model in PyTorch; the CPU if left out.
        proposals: masks an image to ask for, at most as many as the file gives; all of them if left out.

    Raises:
        CheckpointError: no such file, or not one that `maskconver export` wrote.
        ConfigError: a device that is not there, or more proposals than the file gives.
        MissingExtraError: PyTorch is not installed.
    """

    def __init__(
        self, path: str | os.PathLike[str], device: str | None = None, proposals: int | None = None
    ) -> None:
        require_file(path)
        try:
            import torch
            from torch.export.passes import move_to_device_pass
        except ModuleNotFoundError as error:
            raise MissingExtraError(f'running "{os.fspath(path)}"', "train") from error
        about = {KEY: ""}
        try:
            _require_no_objects(path)
            with _tensors_only():
                program = torch.export.load(path, extra_files=about)
        except CheckpointError:
            raise
        except Exception as error:  # a zip, a JSON or a schema that is not what it should be
            reason = " ".join(str(error).split()) or type(error).__name__
            raise CheckpointError(
                f"{path} is not a file of torch.export that can be run ({reason})"
            ) from error
        text = about[KEY]
        super().__init__(path, Exported.from_json(text, path), proposals)
        self.device = torch.device("cpu")
        if device is not None and device != "cpu":
            try:
                self.device = torch.device(device)
                program = move_to_device_pass(program, self.device)
            except (RuntimeError, AssertionError) as error:
                raise ConfigError(
                    f'device "{device}" cannot be used: {str(error).splitlines()[0]}'
                ) from error
        self._module = program.module()

    def _answer(self, canvas: NDArray[Any]) -> list[NDArray[Any]]:
        import torch

        with torch.inference_mode():
            answer = self._module(torch.from_numpy(np.ascontiguousarray(canvas)).to(self.device))
        return [part.cpu().numpy() for part in answer]


def _require_no_objects(path: str | os.PathLike[str]) -> None:
    """Refuses files with pickled objects: torch.export.load would run what they say."""
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.rpartition("/")[2].startswith(("custom_obj", "opaque_obj")):
                raise CheckpointError(f"{path} holds pickled objects ({name}), which are never loaded")


@contextmanager
def _tensors_only() -> Iterator[None]:
    """Has torch.load read tensors and nothing else, whatever its caller asks for."""
    before = os.environ.get(FORCE)
    os.environ[FORCE] = "1"
    try:
        yield
    finally:
        os.environ.pop(FORCE)
        if before is not None:
            os.environ[FORCE] = before
