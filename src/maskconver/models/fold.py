"""Folds batch norms into the convolutions before them; for inference."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

SEEN = 129  # px of the picture on which convolutions and batch norms are paired
T = TypeVar("T", bound=nn.Module)


def folded(model: T, in_channels: int) -> T:
    """A copy of `model` for inference alone, channels last, with its batch norms folded.

    Its state dict is its own, which no file can hold; `model` stays as it is.
    """
    result = copy.deepcopy(model).eval().requires_grad_(False)
    like = next(result.parameters())
    fold_batch_norms(result, like.new_zeros(1, in_channels, SEEN, SEEN))
    result.is_folded = True  # type: ignore[assignment]  # for `checkpoint.save`
    return result.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


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


@torch.no_grad()
def fold_batch_norms(network: nn.Module, images: Tensor) -> int:
    """Takes out every batch norm that alone uses what a convolution gave; changes `network` in place.

    Which those are is seen on one run. Results stay the same but for rounding.

    Args:
        network: in evaluation mode.
        images: what `network` takes, as small as it may be.

    Returns:
        How many were folded.
    """
    sources: dict[int, tuple[str, Tensor]] = {}  # of tensors kept alive, so that no address comes twice
    pairs: list[tuple[str, str, int]] = []
    uses = _Uses()

    def watch(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def after(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if isinstance(module, nn.Conv2d):
                sources[id(output)], uses.count[id(output)] = (name, output), 0
            elif (source := sources.get(id(inputs[0]))) is not None:
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
    alone = [(conv, bn) for conv, bn, source in pairs if uses.count[source] == 1]
    for conv_name, bn_name in alone:
        conv, bn = network.get_submodule(conv_name), network.get_submodule(bn_name)
        assert isinstance(conv, nn.Conv2d) and isinstance(bn, nn.BatchNorm2d)
        network.set_submodule(conv_name, fuse_conv_bn_eval(conv, bn))
        network.set_submodule(bn_name, getattr(bn, "act", nn.Identity()))  # timm's norms carry an activation
    return len(alone)
