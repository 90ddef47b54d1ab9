"""What all formats are made of: the description of a file, and the model as a function of tensors."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .. import __version__
from ..core.config import InputConfig
from ..core.preprocess import prepare
from ..errors import ConfigError
from ..inference.exported import Exported, Output, Precision, as_fed
from ..models.kmax import KMaXDeepLab
from ..models.registry import Model
from ..models.topk import TopK, operator_topk
from .panoptic import PanopticMerge, PanopticNetwork

MULTIPLE = 32  # of the sides of files that take any size


def describe(
    model: Model,
    size: tuple[int, int] | None,
    dynamic: bool,
    proposals: int | None,
    quantize: Precision,
    uint8: bool,
    output: Output = "proposals",
    kmax: bool = False,
) -> Exported:
    """What a file will say about itself, after a look at whether all that fits together.

    Args:
        model: what is exported.
        size, dynamic, proposals, quantize, uint8, output: as in `export_onnx`.
        kmax: whether the format takes kMaX-DeepLab and ReMaX.

    Raises:
        ConfigError: something does not fit.
    """
    own: InputConfig = model.input
    if model.categories is None:
        raise ConfigError("the model has no categories, which the file must name; make it with categories=…")
    if isinstance(model, KMaXDeepLab):
        _check_kmax(model, dynamic, proposals, output, kmax)
    if model.config.in_channels != 3:
        raise ConfigError(f"export takes models of RGB images, not of {model.config.in_channels} channels")
    if dynamic and output == "panoptic":
        raise ConfigError(
            "a panoptic map in the file needs one size: leave out `dynamic`, or take `output=proposals`"
        )
    if dynamic and size is not None:
        raise ConfigError("a file is of one size or of any: leave out either `size` or `dynamic`")
    if own.mode == "native" and size is None and not dynamic:
        raise ConfigError(
            "the model takes pictures at their own size: give `dynamic`, or `size=H W` to scale them"
        )
    if size is not None and min(size) < 1:
        raise ConfigError(f"size {size[0]}×{size[1]} is not possible; height and width must be 1 or more")
    if proposals is not None and proposals < 1:
        raise ConfigError(f"{proposals} proposals are not possible; ask for 1 or more")
    step = max(own.multiple, MULTIPLE) if dynamic else 1
    if dynamic and (step % MULTIPLE or (own.mode == "fit" and any(n % step for n in own.size))):
        raise ConfigError(f"`dynamic` needs a network input in multiples of {MULTIPLE}; give `size=H W`")
    fixed = None if dynamic else size or own.size
    return Exported(
        name=model.name,
        version=__version__,
        size=fixed,
        multiple=step,
        proposals=proposals or model.config.proposals,
        uint8=uint8,
        quantize=quantize,
        output=output,
        input=replace(own, mode="fit", size=fixed) if fixed else replace(own, multiple=step),
        postprocess=model.postprocess,
        categories=model.categories,
    )


def _check_kmax(
    model: KMaXDeepLab, dynamic: bool, proposals: int | None, output: Output, possible: bool
) -> None:
    """Refuses what kMaX-DeepLab and ReMaX cannot be exported to."""
    if not possible or output != "proposals":
        raise ConfigError(
            "kMaX-DeepLab and ReMaX are exported as onnx or torch-export, with `output=proposals` only"
        )
    if model.postprocess.hard_sigmoid:
        raise ConfigError("kMaX-DeepLab and ReMaX have no hard sigmoid: leave out `hard_sigmoid`")
    if dynamic:
        raise ConfigError("kMaX-DeepLab and ReMaX are exported for one size: leave out `dynamic`")
    if proposals is not None and proposals != model.config.proposals:
        raise ConfigError(
            f"masks of kMaX-DeepLab and ReMaX compete with one another: leave out `proposals={proposals}` "
            f"of {model.config.proposals}"
        )


class Network(nn.Module):
    """The model as a function of tensors, which is what exporters take."""

    factor: Tensor
    summand: Tensor

    def __init__(self, model: Model, description: Exported) -> None:
        super().__init__()
        self.model, self.proposals, self.uint8 = model, description.proposals, description.uint8
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (description.input.mean, description.input.std))
        self.register_buffer("factor", 1 / (255 * std))
        self.register_buffer("summand", -mean / std)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.uint8:
            images = images.permute(0, 3, 1, 2).float() * self.factor + self.summand
        found = self.model.predict(images, self.proposals)
        return found.scores, found.labels, found.mask_logits


def network(model: Model, description: Exported, *, topk: TopK = operator_topk) -> nn.Module:
    """The model as `description` says, on the CPU in evaluation mode: a tensor in, three tensors out.

    They are the fields of `Proposals`, or what `PanopticMerge` gives.

    Args:
        model: unchanged.
        description: of the file.
        topk: how scores are ranked; `stable_topk` where PyTorch runs the graph.
    """
    result: nn.Module = Network(model.optimized(topk=topk), description)
    if description.output == "panoptic":
        assert description.size is not None
        stride: int = model.stride  # type: ignore[assignment]
        height, width = (-(-n // stride) for n in description.size)
        merge = PanopticMerge(
            description.postprocess, description.categories, (height, width), description.size
        )
        result = PanopticNetwork(result, merge)
    return result.to("cpu").eval()


def example(description: Exported) -> Tensor:
    """A picture as the file takes it, all zeros; of any size that a dynamic file takes."""
    height, width = description.size or (4 * description.multiple, 5 * description.multiple)
    if description.uint8:
        return torch.zeros(1, height, width, 3, dtype=torch.uint8)
    return torch.zeros(1, 3, height, width)


def any_size(description: Exported) -> dict[int, Any]:
    """Dimensions of the input that are not fixed, by their position, for torch.export."""
    step, first = description.multiple, 1 if description.uint8 else 2
    rows, columns = (torch.export.Dim(name, min=1, max=1024) for name in ("rows", "columns"))
    return {first: step * rows, first + 1: step * columns}


LIMIT = 32  # pictures; each takes a second or more
# The last convolution of each head stays in float32, and all that follows: it costs little, and in 8 bits the
# positions would lose the masks. Everything before calculates in 8 bits.
FLOAT_LAYER = re.compile(r"_head\.out\.")


def check_calibration(quantize: Precision, images: Sequence[Any] | None) -> None:
    """Refuses 8 bits without pictures, and pictures without 8 bits.

    Raises:
        ConfigError: one without the other.
    """
    if quantize == "int8" and not images:
        raise ConfigError("int8 needs pictures such as the file will see: give `calibrate=DIR`")
    if quantize != "int8" and images:
        raise ConfigError(
            f"`quantize={quantize}` needs no images; leave out `calibrate` or say `quantize=int8`"
        )


def spread(items: Sequence[Any], limit: int = LIMIT) -> list[Any]:
    """At most `limit` of them, from all over the list."""
    return [items[i * len(items) // limit] for i in range(limit)] if len(items) > limit else [*items]


def compared_on(images: Sequence[Any] | None) -> list[Any] | None:
    """A few of them for comparing the file with its model; None where there are none."""
    return spread(images, 8) if images else None


def calibration_feeds(
    images: Sequence[NDArray[np.uint8]], file: Exported, channels_last: bool
) -> Iterator[NDArray[Any]]:
    """Each picture as the file takes it, one at a time."""
    for image in images:
        canvas, _ = prepare(image, file.input, dtype=np.uint8 if file.uint8 else np.float32)
        yield as_fed(canvas[None], channels_last)
