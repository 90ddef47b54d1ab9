"""Feature extractors: images in, `{level: feature map}` out, where level is log2 of the stride."""

from __future__ import annotations

from torch import nn

from ...errors import ConfigError
from ..layers import Padding
from .mobilenet_mh import MobileNetMH
from .timm_features import TimmFeatures

TIMM_BACKBONES = ("mobilenetv3_large_100", "mobilenetv3_small_100")


def create_backbone(name: str, in_channels: int, padding: Padding, momentum: float) -> nn.Module:
    """A backbone by name, at output stride 16.

    Returns:
        A module with `forward(images) -> dict[int, Tensor]` and `channels: dict[int, int]`.

    Raises:
        ConfigError: no backbone of that name.
    """
    if name == "mobilenet_mh":
        return MobileNetMH(in_channels, padding, momentum)
    if name in TIMM_BACKBONES:
        return TimmFeatures(name, in_channels, padding=padding, momentum=momentum)
    raise ConfigError(f'no backbone "{name}"; known: mobilenet_mh, {", ".join(TIMM_BACKBONES)}')
