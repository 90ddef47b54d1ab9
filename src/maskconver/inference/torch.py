"""Runs exported `.pt2` files with PyTorch."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.categories import Categories
from ..core.config import InputConfig, PostprocessConfig
from ..core.proposals import Proposals
from ..errors import CheckpointError, ConfigError, MissingExtraError, first_line, one_line
from .exported import KEY, Exported, FileRuntime, require_file


class TorchRuntime:
    """A PyTorch module with `.input`, `.postprocess`, `.categories` and `.predict(images) -> Proposals`.

    Args:
        model: with `tta` also with `.predict_flipped`, see `SegmentationModel`.
        device: where it runs; it stays where it is if left out.
        proposals: number of masks per image; the model's own number if left out.
        tta: average over each image and its mirror image.

    Raises:
        ConfigError: a device that cannot be used, no proposals, or a model without flips.
    """

    def __init__(
        self, model: Any, device: str | None = None, proposals: int | None = None, *, tta: bool = False
    ) -> None:
        import torch

        from ..models.layers import use_onednn
        from ..models.optimize import InferenceModel

        if proposals is not None and proposals < 1:
            raise ConfigError(f"a model gives at least one proposal, not {proposals}; leave proposals out")
        if device is not None:
            try:
                model = model.to(torch.device(device))
            except (RuntimeError, AssertionError) as error:
                reason = first_line(error)
                raise ConfigError(f'device "{device}" cannot be used: {reason}') from error
        if tta and not getattr(model, "flips", False):
            name = getattr(model, "name", "") or type(model).__name__
            raise ConfigError(
                f"{name} proposes other masks for a mirror image, and they cannot be averaged one by one; "
                "leave out `tta`"
            )
        if isinstance(model, InferenceModel):  # a copy of its own, which no file is made of
            use_onednn(model)
        self.model, self.answer = model, model.predict_flipped if tta else model.predict
        self.input: InputConfig = model.input
        self.postprocess: PostprocessConfig = model.postprocess
        self.categories: Categories = model.categories
        self.options: dict[str, Any] = {} if proposals is None else {"proposals": proposals}
        self.selects = not tta and getattr(model, "selects", False)

    def __repr__(self) -> str:
        return f"{getattr(self.model, 'name', '') or type(self.model).__name__} on {self.device}"

    @property
    def device(self) -> Any:
        """Where the weights are."""
        import torch

        return next((p.device for p in self.model.parameters()), torch.device("cpu"))

    def __call__(self, images: NDArray[np.float32], least: float | None = None) -> Proposals:
        import torch

        options = self.options if least is None else {**self.options, "least": least}
        with torch.inference_mode(), _evaluating(self.model):
            proposals: Proposals = self.answer(torch.from_numpy(images).to(self.device), **options)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # the merge waits for it anyway; so each gets its own time
        return proposals


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Evaluation mode for a while: a model in training is handed back in training."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def best_device() -> str:
    """`cuda`, `mps` or `cpu`: the first that PyTorch can use here."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


class TorchExportRuntime(FileRuntime):
    """A file written by `maskconver export --to torch-export`; see `Runtime` for the attributes.

    Args:
        path: the file.
        device: as of a model in PyTorch; the CPU if left out.
        proposals: number of masks per image, at most as many as the file gives; all of them if left out.

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
            reason = one_line(error)
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
                raise ConfigError(f'device "{device}" cannot be used: {first_line(error)}') from error
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
