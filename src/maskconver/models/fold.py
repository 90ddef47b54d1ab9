"""Folds batch norms into the convolutions before them; for inference."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

SEEN = 65  # px of the picture on which convolutions and batch norms are paired
T = TypeVar("T", bound=nn.Module)


def folded(model: T, in_channels: int) -> T:
    """A copy of `model` for inference alone, channels last, with its batch norms folded.

    Its state dict is its own; `model` stays as it is.
    """
    result = copy.deepcopy(model).eval().requires_grad_(False)
    device = next(result.parameters()).device
    fold_batch_norms(result, torch.zeros(1, in_channels, SEEN, SEEN, device=device))
    return result.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


@torch.no_grad()
def fold_batch_norms(network: nn.Module, images: Tensor) -> int:
    """Takes out every batch norm that gets the very tensor a convolution gave; changes `network` in place.

    Which those are is seen on one run. Results stay the same but for rounding.

    Args:
        network: in evaluation mode; of a convolution followed by a batch norm, nothing else uses the result.
        images: what `network` takes, as small as it may be.

    Returns:
        How many were folded.
    """
    sources: dict[int, tuple[str, Tensor]] = {}  # of tensors kept alive, so that no address comes twice
    pairs: list[tuple[str, str]] = []

    def watch(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def after(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if isinstance(module, nn.Conv2d):
                sources[id(output)] = (name, output)
            elif (source := sources.get(id(inputs[0]))) is not None:
                pairs.append((source[0], name))

        return module.register_forward_hook(after)

    hooks = [
        watch(name, module)
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d)
    ]
    try:
        network(images)
    finally:
        for hook in hooks:
            hook.remove()
    for conv_name, bn_name in pairs:
        conv, bn = network.get_submodule(conv_name), network.get_submodule(bn_name)
        assert isinstance(conv, nn.Conv2d) and isinstance(bn, nn.BatchNorm2d)
        network.set_submodule(conv_name, fuse_conv_bn_eval(conv, bn))
        network.set_submodule(bn_name, getattr(bn, "act", nn.Identity()))  # timm's norms carry an activation
    return len(pairs)
