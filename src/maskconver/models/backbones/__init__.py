"""Feature extractors: images in, `{level: feature map}` out, where level is log2 of the stride."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence

from torch import nn

from ...errors import ConfigError
from ..layers import Activation, Padding
from . import _torchvision  # noqa: F401  (before torchvision and timm; nothing else imports it)
from .mobilenet_mh import MobileNetMH
from .resnet import ResNet
from .spinenet import SpineNet
from .timm import PREFIX, TimmFeatures

OWN_BACKBONES = ("mobilenet_mh", "resnet50", "spinenet49", "spinenet49plus")
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
    block13_dilation: int = 2,
) -> nn.Module:
    """A backbone by name.

    Args:
        name: one of `OWN_BACKBONES`, or any network of timm that gives features; `timm/` before a name takes
            timm's where both have one.
        in_channels: channels of the image.
        padding: see `layers.Conv2d`.
        momentum: of the batch norms.
        output_stride: 16, or 32 where there is a level 5; `mobilenet_mh` and the SpineNets have their own.
        activation: of `resnet50` and the SpineNets; the others have their own.
        drop_rates: stochastic depth of the four stages; timm's networks rise to the last of them.
        block13_dilation: of `mobilenet_mh`.

    Returns:
        A module with `forward(images) -> dict[int, Tensor]` and `channels: dict[int, int]`.

    Raises:
        ConfigError: no backbone of that name, one of the other kind of model, or see `TimmFeatures`.
    """
    if name == "resnet50" and output_stride == 32:
        return ResNet(
            in_channels, padding, momentum=momentum, activation=activation, drop_rates=tuple(drop_rates)
        )
    if name == "mobilenet_mh" and output_stride == 16:
        return MobileNetMH(in_channels, padding, momentum, block13_dilation=block13_dilation)
    if name in ("spinenet49", "spinenet49plus") and output_stride == 16:
        return SpineNet(
            in_channels, padding, momentum=momentum, activation=activation, plus=name.endswith("plus")
        )
    if name in OWN_BACKBONES:  # in the other kind of model
        kind = "single-scale" if output_stride == 16 else "multi-scale"
        other = f", but `timm/{name}` is" if name == "resnet50" else ""
        raise ConfigError(f'the backbone "{name}" is not made for {kind} models{other}')
    _require_known(name)
    return TimmFeatures(
        name, in_channels, output_stride, padding=padding, momentum=momentum, drop_path=drop_rates[-1]
    )


def _require_known(name: str) -> None:
    import timm

    plain = name.removeprefix(PREFIX)
    if timm.is_model(plain.partition(".")[0]):
        return
    near = difflib.get_close_matches(plain, (*OWN_BACKBONES, *timm.list_models()), n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(OWN_BACKBONES)} and timm's"
    raise ConfigError(f'no backbone "{name}"; {hint}')


def require_levels(backbone: str, channels: Mapping[int, int], levels: Iterable[int]) -> None:
    """Refuses a backbone that lacks a stride.

    Args:
        backbone: its name.
        channels: of its features by level.
        levels: that are needed.

    Raises:
        ConfigError: naming the strides that are missing and those there are.
    """
    if missing := [f"{1 << level}" for level in levels if level not in channels]:
        there = ", ".join(f"{1 << level}" for level in sorted(channels))
        raise ConfigError(
            f'the backbone "{backbone}" has no features of stride {", ".join(missing)}, which this model '
            f"needs; its strides are {there}"
        )
