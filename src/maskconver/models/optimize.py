"""What families share in rewriting a network for inference: batch norms folded, and the model around it."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .base import SegmentationModel
from .topk import TopK, stable_topk

SIDE = 129  # px of the image on which convolutions and batch norms are paired
T = TypeVar("T", bound=nn.Module)


class InferenceModel(SegmentationModel):
    """A model rewritten for inference, with the config, categories and name of the one it was made from.

    It answers with `predict`, is not trained, and its weights go into no file.

    Args:
        model: what it was made from.
        topk: how scores are ranked.
    """

    def __init__(self, model: SegmentationModel, topk: TopK = stable_topk) -> None:
        super().__init__(model.config, model.num_classes, model.categories, name=model.name)
        self.family = model.family  # type: ignore[misc]  # as the class of `model` has it
        self._stride, self.topk = model.stride, topk

    def optimized(self, *, topk: TopK = stable_topk) -> InferenceModel:
        """A copy with scores ranked by `topk`."""
        other = copy.deepcopy(self)
        other.topk = topk
        return other

    @property
    def stride(self) -> int:
        """Pixels of the network input a cell of the masks stands for."""
        return self._stride


def folded(model: T, in_channels: int) -> T:
    """A copy of a network in evaluation mode, channels last, with its batch norms folded.

    Args:
        model: stays as it is.
        in_channels: of the images it takes.
    """
    result = copy.deepcopy(model).eval().requires_grad_(False)
    like = next(result.parameters())
    fold_batch_norms(result, like.new_zeros(1, in_channels, SIDE, SIDE))
    return result.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


@torch.no_grad()
def fold_batch_norms(network: nn.Module, images: Tensor) -> int:
    """Takes out every batch norm that alone uses what a convolution gave; changes `network` in place.

    Results stay the same but for rounding.

    Args:
        network: in evaluation mode.
        images: what `network` takes, as small as it may be.

    Returns:
        How many were folded.
    """
    pairs = convolutions_before_norms(network, images)
    for conv_name, norm_name in pairs:
        conv, norm = network.get_submodule(conv_name), network.get_submodule(norm_name)
        assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
        network.set_submodule(conv_name, fuse_conv_bn_eval(conv, norm))
        after = getattr(norm, "act", nn.Identity())  # timm's norms carry an activation
        network.set_submodule(norm_name, after)
    return len(pairs)


def convolutions_before_norms(network: nn.Module, images: Tensor) -> list[tuple[str, str]]:
    """The names of every convolution and of the batch norm that alone uses its result.

    Seen on one run, not read from names: where a map is used twice (a feature that is tapped before its norm,
    say) only a run tells, and a network of others (timm's) need not say which norm follows which convolution.

    Args:
        network: in evaluation mode.
        images: what it takes.
    """
    results: dict[int, tuple[str, Tensor]] = {}  # of tensors kept alive, so that no address comes twice
    pairs: list[tuple[str, str, int]] = []
    uses = _Uses()

    def watch(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def after(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if isinstance(module, nn.Conv2d):
                results[id(output)], uses.count[id(output)] = (name, output), 0
            elif (source := results.get(id(inputs[0]))) is not None:
                pairs.append((source[0], name, id(inputs[0])))

        return module.register_forward_hook(after)

    hooks = [
        watch(name, module)
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d)
    ]
    try:
        with uses:
            network(images)
    finally:
        for hook in hooks:
            hook.remove()
    return [(conv, norm) for conv, norm, result in pairs if uses.count[result] == 1]


class _Uses(TorchDispatchMode):
    """Counts how often operations take each of the tensors that are watched, by their id."""

    def __init__(self) -> None:
        super().__init__()
        self.count: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        for value in tree_leaves((args, kwargs)):
            if id(value) in self.count:
                self.count[id(value)] += 1
        return func(*args, **(kwargs or {}))
