"""Backbones of timm as feature pyramids."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..layers import Padding
from . import _torchvision  # noqa: F401  (before timm, which imports torchvision)


class TimmFeatures(nn.Module):
    """A timm network, its features named by level (log2 of the stride).

    Args:
        name: timm's model name, e.g. `mobilenetv3_large_100`.
        in_channels: channels of the image.
        output_stride: 16 or 32; below 32 the last stages are dilated instead of strided.
        padding: `same` pads as TensorFlow does, `symmetric` as timm's networks do by themselves.
        momentum: of the batch norms, in PyTorch's sense.
        drop_path: stochastic depth of the last block.
    """

    def __init__(
        self,
        name: str,
        in_channels: int = 3,
        output_stride: int = 16,
        padding: Padding = "same",
        momentum: float = 0.01,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        import timm

        # A ConvNeXt has no batch norms, and its strides equal its kernels: nothing to pad.
        own: dict[str, Any] = {}
        if "convnext" not in name:
            own = {"bn_momentum": momentum, "pad_type": "same" if padding == "same" else ""}
        self.name = name
        self.net = timm.create_model(
            name,
            pretrained=False,
            features_only=True,
            in_chans=in_channels,
            output_stride=output_stride,
            drop_path_rate=drop_path,
            **own,
        )
        # With a dilated network several taps share a stride; the deepest is the level's feature.
        info: Any = self.net.feature_info
        self.levels = [int(stride).bit_length() - 1 for stride in info.reduction()]
        self.channels: dict[int, int] = dict(zip(self.levels, info.channels()))

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        """Images B×C×H×W float to {level: B×channels[level]×H/2^level×W/2^level}."""
        features: list[Tensor] = self.net(images)
        return dict(zip(self.levels, features))
