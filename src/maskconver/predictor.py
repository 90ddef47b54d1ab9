"""`Predictor`: a picture in, a `Segmentation` out, whatever runs the network."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any, Protocol, overload

import numpy as np
from numpy.typing import NDArray

from .categories import Categories
from .config import InputConfig, MergeConfig
from .data.images import MAX_PIXELS
from .errors import ConfigError, MissingExtraError
from .inputs import as_image
from .merge import merge
from .preprocess import prepare
from .proposals import Geometry, Proposals
from .segmentation import Segmentation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn


class Runtime(Protocol):
    """What runs a network: PyTorch here, one class an exported format elsewhere.

    Attributes:
        input: how images are brought to the network.
        merge: the thresholds the model was made with.
        categories: its label set.
    """

    input: InputConfig
    merge: MergeConfig
    categories: Categories

    def __call__(self, images: NDArray[np.float32]) -> Proposals:
        """Canvases B×3×h×w float32 to their proposals, without geometry."""
        ...


def open_runtime(model: Any, device: str | None = None, proposals: int | None = None) -> Runtime:
    """The runtime for a model; the one place where it is chosen.

    Args:
        model: a bundled name, a model file or a run's folder; a loaded `nn.Module`; or a runtime.
        device: for PyTorch: `cpu`, `cuda`, `cuda:1`, `mps`; the best there is if left out.
        proposals: masks an image to ask for; the model's own number if left out.

    Raises:
        CheckpointError: no such model, or a file that cannot be loaded.
        MissingExtraError: PyTorch is not installed.
    """
    if isinstance(model, str | os.PathLike):
        try:
            from . import checkpoint
        except ModuleNotFoundError as error:
            raise MissingExtraError(f'running "{os.fspath(model)}"', "train") from error
        return TorchRuntime(checkpoint.load(model), device or _best_device(), proposals)
    if hasattr(model, "state_dict"):  # an nn.Module, without importing torch
        return TorchRuntime(model, device, proposals)
    if callable(model) and hasattr(model, "categories"):
        return model
    raise ConfigError(f"cannot run a {type(model).__name__}; give a model's name, file or module")


class Predictor:
    """Segments pictures with one model.

    ```python
    predictor = Predictor("nuclei", object_threshold=0.3)
    predictor("cells.png").draw().save("overlay.png")
    ```

    Args:
        model: a bundled name, a model file or a run's folder; a loaded `nn.Module`.
        device: where PyTorch runs; the best there is if left out, and a module stays where it is.
        proposals: masks an image to ask for; the model's own number if left out.
        batch_size: how many images of a list run together, where their canvases have one size.
        max_pixels: larger files are refused.
        white_level: the value shown as white in pictures of more than 8 bits, e.g. 4095.
        merge: fields of `MergeConfig` to override, e.g. `object_threshold=0.3`.

    Raises:
        CheckpointError: no such model, or a file that cannot be loaded.
        ConfigError: a device, field or value that does not exist.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | nn.Module | Runtime,
        *,
        device: str | None = None,
        proposals: int | None = None,
        batch_size: int = 1,
        max_pixels: int = MAX_PIXELS,
        white_level: float | None = None,
        **merge: Any,
    ) -> None:
        known = [f.name for f in fields(MergeConfig)]
        if unknown := set(merge) - set(known):
            raise ConfigError(f"no setting {', '.join(sorted(unknown))}; the merge has {', '.join(known)}")
        for name in ("object_threshold", "overlap_threshold", "min_area"):
            if not 0 <= merge.get(name, 0) <= 1:
                raise ConfigError(f"{name} is a share and lies in 0…1, got {merge[name]}")
        self.runtime = open_runtime(model, device, proposals)
        if self.runtime.categories is None:
            raise ConfigError(
                "the model has no categories, so its answers have no names; make it with categories=…"
            )
        self.merge = replace(self.runtime.merge, **merge)
        self.batch_size = max(batch_size, 1)
        self.max_pixels = max_pixels
        self.white_level = white_level

    @property
    def categories(self) -> Categories:
        """The model's label set."""
        return self.runtime.categories

    def __repr__(self) -> str:
        return f"Predictor({self.runtime!r})"

    @overload
    def __call__(self, images: list[Any] | tuple[Any, ...]) -> list[Segmentation]: ...
    @overload
    def __call__(self, images: Any) -> Segmentation: ...
    def __call__(self, images: Any) -> Segmentation | list[Segmentation]:
        """Segment one picture, or a list of them.

        Args:
            images: a path, a Pillow picture, an array H×W[×3], a tensor [3×]H×W (see `as_image`).

        Returns:
            A segmentation at the picture's own size, with the picture in it; a list for a list.

        Raises:
            ImageError: a picture that cannot be read.
            MaskconverError: the network returned NaN or infinite values.
        """
        if not isinstance(images, list | tuple):
            return self._segment([images])[0]
        results: list[Segmentation] = []
        for start in range(0, len(images), self.batch_size):
            results += self._segment(images[start : start + self.batch_size])
        return results

    def _segment(self, images: Sequence[Any]) -> list[Segmentation]:
        pictures = [as_image(i, max_pixels=self.max_pixels, white_level=self.white_level) for i in images]
        prepared = [prepare(picture, self.runtime.input) for picture, _ in pictures]
        results: list[Segmentation] = []
        for _, group in groupby(prepared, key=lambda item: item[1].canvas_size):
            canvases, geometry = zip(*group)
            results += self._run(np.stack(canvases), geometry)
        for result, (picture, name) in zip(results, pictures):
            result.image, result.file_name = picture, name
        return results

    def _run(self, canvases: NDArray[np.float32], geometry: tuple[Geometry, ...]) -> list[Segmentation]:
        proposals = replace(self.runtime(canvases), geometry=geometry)
        return merge(proposals, self.merge, self.categories)


class TorchRuntime:
    """A PyTorch module with `.input`, `.merge`, `.categories` and `.predict(images) -> Proposals`."""

    def __init__(self, model: Any, device: str | None = None, proposals: int | None = None) -> None:
        import torch

        if device is not None:
            try:
                model = model.to(torch.device(device))
            except (RuntimeError, AssertionError) as error:
                reason = str(error).splitlines()[0]
                raise ConfigError(f'device "{device}" cannot be used: {reason}') from error
        self.model = model
        self.input: InputConfig = model.input
        self.merge: MergeConfig = model.merge
        self.categories: Categories = model.categories
        self.options = {} if proposals is None else {"proposals": proposals}

    def __repr__(self) -> str:
        return f"{getattr(self.model, 'name', '') or type(self.model).__name__} on {self.device}"

    @property
    def device(self) -> Any:
        """Where the weights are."""
        import torch

        return next((p.device for p in self.model.parameters()), torch.device("cpu"))

    def __call__(self, images: NDArray[np.float32]) -> Proposals:
        import torch

        with torch.inference_mode(), _evaluating(self.model):
            proposals: Proposals = self.model.predict(
                torch.from_numpy(images).to(self.device), **self.options
            )
        return proposals


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while: a model in training is handed back in training."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _best_device() -> str:
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
