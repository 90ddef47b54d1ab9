"""Feature extractors: images in, `{level: feature map}` out, where level is log2 of the stride."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from torch import nn

from ...errors import ConfigError
from ..layers import Activation, Padding
from . import _torchvision  # noqa: F401  (before torchvision and timm; nothing else imports it)
from .mobilenet_mh import MobileNetMH
from .resnet import ResNet
from .spinenet import SpineNet
from .timm import TimmFeatures

OWN_BACKBONES = ("mobilenet_mh", "resnet50", "spinenet49", "spinenet49plus")
TIMM_BACKBONES = (
    "mobilenetv3_large_100",
    "mobilenetv3_small_100",
    "convnext_tiny",
    "convnext_small",
    "convnext_base",
)
NO_DROP = (0.0, 0.0, 0.0, 0.0)


def create_backbone(
    name: str,
    in_channels: int,
    padding: Padding,
    *,
    momentum: float = 0.01,
    output_stride: int = 16,
    activation: Activation = "relu",
    drop_rates: Sequence[float] = NO_DROP,
) -> nn.Module:
    """A backbone by name.

    Args:
        name: one of `OWN_BACKBONES` or `TIMM_BACKBONES`.
        in_channels: channels of the image.
        padding: see `layers.Conv2d`.
        momentum: of the batch norms.
        output_stride: 16, or 32 where there is a level 5; `mobilenet_mh` and the SpineNets have their own.
        activation: of `resnet50` and the SpineNets; the others have their own.
        drop_rates: stochastic depth of the four stages; timm's networks rise to the last of them.

    Returns:
        A module with `forward(images) -> dict[int, Tensor]` and `channels: dict[int, int]`.

    Raises:
        ConfigError: no backbone of that name, or one without the level 5 that output stride 32 asks for.
    """
    if name in TIMM_BACKBONES:
        return TimmFeatures(
            name,
            in_channels,
            output_stride,
            padding=padding,
            momentum=momentum,
            drop_path=drop_rates[-1],
        )
    if name == "resnet50" and output_stride == 32:
        return ResNet(
            in_channels, padding, momentum=momentum, activation=activation, drop_rates=tuple(drop_rates)
        )
    if name == "mobilenet_mh" and output_stride == 16:
        return MobileNetMH(in_channels, padding, momentum)
    if name in ("spinenet49", "spinenet49plus") and output_stride == 16:
        return SpineNet(
            in_channels, padding, momentum=momentum, activation=activation, plus=name.endswith("plus")
        )
    if name in OWN_BACKBONES:
        kind = "single-scale" if output_stride == 16 else "multi-scale"
        raise ConfigError(f'the backbone "{name}" is not made for {kind} models')
    known = OWN_BACKBONES + TIMM_BACKBONES
    near = difflib.get_close_matches(name, known, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"
    raise ConfigError(f'no backbone "{name}"; {hint}')
