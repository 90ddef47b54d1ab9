"""timm's ConvNeXt on images of any size, padded as kMaX-DeepLab pads it (kmax page §2.1)."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from . import _torchvision  # noqa: F401  (before timm, which imports torchvision)

SIZES = {
    "convnext_tiny": ((3, 3, 9, 3), (96, 192, 384, 768)),
    "convnext_small": ((3, 3, 27, 3), (96, 192, 384, 768)),
    "convnext_base": ((3, 3, 27, 3), (128, 256, 512, 1024)),
}


class PaddedConvNeXt(nn.Module):
    """A ConvNeXt whose features have `ceil(n / stride)` positions, raw stage outputs without a norm.

    Zeros: 1 above and left, 2 below and right of the image; 1 below and right of what every later stage
    takes, before its layer norm.

    Args:
        depths, dims: blocks and channels of the four stages.
        in_channels: channels of the image.
        drop_path: stochastic depth of the last block, rising linearly from 0.
        stem: the stem's output, at stride 4, is a feature too, as level 1.
    """

    def __init__(
        self,
        depths: tuple[int, ...],
        dims: tuple[int, ...],
        in_channels: int = 3,
        drop_path: float = 0.0,
        stem: bool = False,
    ) -> None:
        super().__init__()
        from timm.models.convnext import ConvNeXt

        net: Any = ConvNeXt(
            in_chans=in_channels, num_classes=0, depths=depths, dims=dims, drop_path_rate=drop_path
        )
        self.net: Any = nn.ModuleDict({"stem": net.stem, "stages": net.stages})
        self.stem = stem
        self.channels = dict(enumerate(dims, 2))
        if stem:
            self.channels[1] = dims[0]

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        """Images B×C×H×W float to {level: B×dim×⌈H/2^level⌉×⌈W/2^level⌉}, levels 2…5, 1 with `stem`."""
        x = self.net["stem"](F.pad(images, (1, 2, 1, 2)))
        features: dict[int, Tensor] = {1: x} if self.stem else {}
        for level, stage in enumerate(self.net["stages"], 2):
            if level > 2:
                x = stage.downsample(F.pad(x, (0, 1, 0, 1)))
            x = features[level] = stage.blocks(x)
        return features
