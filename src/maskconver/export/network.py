"""What all formats are made of: the description of a file, and the model as a function of tensors."""

from __future__ import annotations

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
from ..inference.exported import Exported, as_fed
from ..merge.semantic import score_exponent
from ..models.base import SegmentationModel
from ..models.topk import TopK, operator_topk
from .options import ExportOptions, Format
from .panoptic import PanopticMerge, PanopticNetwork, SemanticNetwork

MULTIPLE = 32  # of the sides of files that take any size


def describe(model: SegmentationModel, options: ExportOptions, form: Format) -> Exported:
    """What a file will say about itself.

    Raises:
        ConfigError: an option that does not fit the model.
    """
    own: InputConfig = model.input
    size, dynamic = options.size, "size" in options.free
    if model.categories is None:
        raise ConfigError(
            "the model has no categories, and the file must name them; create it with categories=…"
        )
    postprocess = replace(
        model.postprocess, hard_sigmoid=model.postprocess.hard_sigmoid or options.hard_sigmoid
    )
    options = replace(options, hard_sigmoid=postprocess.hard_sigmoid)
    if own.mode == "native" and size is None and not dynamic:
        # The natural file of such a model takes any size; where there is none, the size is the user's choice.
        dynamic = form.dynamic and model.family.limits.dynamic and options.output != "panoptic"
        if not dynamic:
            raise ConfigError(
                "the model takes images at their own size, but this kind of file takes a single "
                "size: give a `size`"
            )
    _check_limits(model, options, form)
    step = max(own.multiple, MULTIPLE) if dynamic else 1
    if dynamic and (step % MULTIPLE or (own.mode == "fit" and any(n % step for n in own.size))):
        raise ConfigError(
            f"`dynamic` needs a network input in multiples of {MULTIPLE}; give a `size` instead"
        )
    fixed = None if dynamic else size or own.size
    return Exported(
        name=model.name,
        version=__version__,
        size=fixed,
        batch="batch" in options.free,
        multiple=step,
        proposals=options.proposals or model.config.proposals,
        uint8=options.uint8,
        quantize=options.quantize,
        output=options.output,
        input=replace(own, mode="fit", size=fixed) if fixed else replace(own, multiple=step),
        postprocess=postprocess,
        categories=model.categories.as_stuff() if options.output == "semantic" else model.categories,
    )


def _check_limits(model: SegmentationModel, options: ExportOptions, form: Format) -> None:
    """Refuses what models of this family cannot be exported to."""
    name, limits = model.family.name, model.family.limits
    if form.name not in limits.formats:
        raise ConfigError(f"{name} cannot be exported to {form.name}; choose {' or '.join(limits.formats)}")
    if options.output != "proposals" and not limits.panoptic:
        raise ConfigError(
            f"{name} cannot be exported with post-processing: leave out `output={options.output}`"
        )
    if "size" in options.free and not limits.dynamic:
        raise ConfigError(f"{name} is exported for one size: leave out `dynamic`")
    if options.hard_sigmoid and not limits.hard_sigmoid:
        raise ConfigError(f"{name} has no hard sigmoid: leave out `hard_sigmoid`")
    if not limits.fewer_proposals and options.proposals not in (None, model.config.proposals):
        raise ConfigError(
            f"{name} gives all of its {model.config.proposals} proposals, because they depend on one "
            f"another: leave out `proposals={options.proposals}`"
        )


class Network(nn.Module):
    """The model as a function of tensors, which is what exporters take."""

    factor: Tensor
    summand: Tensor

    def __init__(self, model: SegmentationModel, description: Exported) -> None:
        super().__init__()
        self.model, self.proposals, self.uint8 = model, description.proposals, description.uint8
        mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (description.input.mean, description.input.std))
        self.register_buffer("factor", 1 / (255 * std))
        self.register_buffer("summand", -mean / std)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.uint8:
            images = images.permute(0, 3, 1, 2).float() * self.factor + self.summand
        found = self.model.predict(images, self.proposals)
        return found.scores, found.labels, found.mask_logits


def build(model: SegmentationModel, description: Exported, *, topk: TopK = operator_topk) -> nn.Module:
    """A copy of the model as `description` says, on the CPU in evaluation mode: one tensor in, `OUTPUTS` out.

    They are the fields of `Proposals`, or what `PanopticMerge` or `SemanticNetwork` gives.

    Args:
        model: unchanged.
        description: of the file.
        topk: how scores are ranked; `stable_topk` where PyTorch runs the graph.
    """
    result: nn.Module = Network(model.optimized(topk=topk), description)
    if description.output == "semantic":
        exponent = score_exponent(description.postprocess)
        result = SemanticNetwork(result, len(description.categories), exponent)
    elif description.output == "panoptic":
        assert description.size is not None
        height, width = (-(-n // model.stride) for n in description.size)
        merge = PanopticMerge(
            description.postprocess, description.categories, (height, width), description.size
        )
        result = PanopticNetwork(result, merge)
    return result.to("cpu").eval()


def example(description: Exported) -> Tensor:
    """Images as the file takes them, all zeros; of any size and number that a dynamic file takes."""
    height, width = description.size or (4 * description.multiple, 5 * description.multiple)
    count, channels = 2 if description.batch else 1, description.input.channels
    if description.uint8:
        return torch.zeros(count, height, width, channels, dtype=torch.uint8)
    return torch.zeros(count, channels, height, width)


def free_dimensions(description: Exported) -> tuple[dict[int, Any]] | None:
    """Dimensions of the input that are not fixed, by their position, for torch.export; None for none."""
    free: dict[int, Any] = {}
    if description.batch:
        free[0] = torch.export.Dim("batch", min=1, max=1024)
    if description.size is None:
        step, first = description.multiple, 1 if description.uint8 else 2
        rows, columns = (torch.export.Dim(name, min=1, max=1024) for name in ("rows", "columns"))
        free |= {first: step * rows, first + 1: step * columns}
    return (free,) if free else None


def calibration_feeds(
    images: Sequence[NDArray[np.uint8]], file: Exported, channels_last: bool
) -> Iterator[NDArray[Any]]:
    """Each image as the file takes it, one at a time."""
    for image in images:
        canvas, _ = prepare(image, file.input, dtype=np.uint8 if file.uint8 else np.float32)
        yield as_fed(canvas[None], channels_last)
