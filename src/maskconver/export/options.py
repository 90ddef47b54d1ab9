"""The options of an export, and what a format must be able to do."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, get_args

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ..errors import ConfigError, MissingExtraError
from ..inference.exported import Exported, FileRuntime, Output, Precision
from ..inference.silence import silenced

PRECISIONS: tuple[Precision, ...] = get_args(Precision)


@dataclass(frozen=True)
class ExportOptions:
    """How an exported file is made.

    Attributes:
        size: (height, width) of the network input in pixels, to which images are then scaled; the model's own
            if None.
        dynamic: what the file does not fix, `size`, `batch` or `batch,size`; True is `size`. With `size` it
            takes inputs of any size that is a multiple of 32. Models that keep images at their own size are
            exported that way unless `size` is given; formats with one size need `size`. With `batch` it
            takes several images of one size at a time, as `Predictor(batch_size=…)` then gives it.
        proposals: masks per image; the model's number if None.
        quantize: `none` is float32; `fp16` and `int8-weights` store the weights in 16 or 8 bits and calculate
            in float32; `int8` calculates in 8 bits, with the ranges of values seen on `calibrate`.
        uint8: the file takes RGB bytes; scaling to 0…1, mean and standard deviation are part of it.
        output: `proposals`; `panoptic` with the post-processing in the file, which needs one size; or
            `semantic`, the score of every class at every pixel of the masks.
        hard_sigmoid: mask probabilities by relu6(x + 3) / 6, as in the paper's mobile models.
        calibrate: images like those the file will be used on, for `int8`: a folder or glob, or anything that
            `Predictor` takes; at most 32 of them are used.
        images: images on which the file is compared with the model, given like `calibrate`; some of
            `calibrate`, or generated ones, if None.
    """

    size: tuple[int, int] | None = None
    dynamic: bool | str = False
    proposals: int | None = None
    quantize: Precision = "none"
    uint8: bool = False
    output: Output = "proposals"
    hard_sigmoid: bool = False
    calibrate: str | os.PathLike[str] | Sequence[Any] | None = None
    images: str | os.PathLike[str] | Sequence[Any] | None = None

    @property
    def free(self) -> frozenset[str]:
        """What `dynamic` names."""
        words = ("size" if self.dynamic is True else self.dynamic or "").split(",")
        return frozenset(word.strip() for word in words) - {""}

    def check(self, form: Format) -> None:
        """Refuses values and combinations that no model can be exported with.

        Raises:
            ConfigError: naming the options.
        """
        if self.quantize not in form.precisions:
            raise ConfigError(
                f"{form.title} files are written with {' or '.join(form.precisions)} weights only; "
                f"leave out `quantize={self.quantize}`"
            )
        if self.quantize == "int8" and not self.calibrate:
            raise ConfigError("`quantize=int8` needs images like those it will be used on: give `calibrate`")
        if self.quantize != "int8" and self.calibrate:
            raise ConfigError(
                f"`quantize={self.quantize}` needs no images; leave out `calibrate`, or give `quantize=int8`"
            )
        if self.free - {"batch", "size"}:
            raise ConfigError(f"`dynamic={self.dynamic}` is not known; there is size, batch and batch,size")
        if self.free and not form.dynamic:
            raise ConfigError(f"a {form.title} file takes one image of one size; leave out `dynamic`")
        if self.free and self.output == "panoptic":
            raise ConfigError(
                "a file with `output=panoptic` takes one image of one size: leave out `dynamic`"
            )
        if self.output == "semantic" and self.hard_sigmoid:
            raise ConfigError("`output=semantic` has the masks' sigmoid inside: leave out `hard_sigmoid`")
        if self.output == "semantic" and form.name == "litert" and not self.uint8:
            raise ConfigError(
                "a LiteRT file with `output=semantic` takes bytes, because MediaPipe normalises all channels "
                "alike: give `uint8`"
            )
        if "size" in self.free and self.size is not None:
            raise ConfigError("`size` fixes the input and `dynamic` leaves it open: give one of them")
        if self.size is not None and min(self.size) < 1:
            raise ConfigError(
                f"size {self.size[0]}×{self.size[1]} is not possible; height and width must be 1 or more"
            )
        if self.proposals is not None and self.proposals < 1:
            raise ConfigError(f"{self.proposals} proposals are not possible; give 1 or more")


class Format(ABC):
    """A runtime that models are exported to.

    Attributes:
        name: what `to` and `--to` call it.
        title: what messages call it.
        suffix: of its files, by which they are known later.
        packages: what must be installed to write and run them.
        quantizers: the same for other precisions than `none`.
        precisions: values of `ExportOptions.quantize` it can have.
        dynamic: whether a file may take inputs of any size, and several at a time.
        ordered_topk: whether the runtime's top-k gives the lower index first on a tie, as the model does.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    suffix: ClassVar[str]
    packages: ClassVar[tuple[str, ...]] = ()
    quantizers: ClassVar[tuple[str, ...]] = ()
    precisions: ClassVar[tuple[Precision, ...]] = PRECISIONS
    dynamic: ClassVar[bool] = True
    ordered_topk: ClassVar[bool] = True

    @abstractmethod
    def trace(self, network: nn.Module, description: Exported, opset: int) -> Any:
        """The graph of a network in float32, in whatever form the other methods take it.

        Args:
            network: what `network.build` gives; it may be changed.
            description: of the file.
            opset: the smallest ONNX opset that has the model's operators.
        """

    def quantize(self, graph: Any, description: Exported, calibration: Sequence[NDArray[np.uint8]]) -> Any:
        """The graph in the precision that the description names; the one given may be changed."""
        return graph

    @abstractmethod
    def write(self, graph: Any, description: Exported, path: Path) -> None:
        """Writes the graph with its description to a file."""

    @abstractmethod
    def open(self, path: Path) -> FileRuntime:
        """Opens a file on the CPU."""

    def require_packages(self, quantize: Precision = "none") -> None:
        """Imports what writing and running a file of a precision needs.

        Raises:
            MissingExtraError: something is not installed.
        """
        for package in self.packages + (self.quantizers if quantize != "none" else ()):
            try:
                with silenced():
                    import_module(package)
            except ModuleNotFoundError as error:
                raise MissingExtraError(f"exporting to {self.title}", "export") from error
