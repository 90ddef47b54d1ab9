"""MobileNet-MH at output stride 16, the backbone of the mobile MaskConver.

As in tensorflow/models, official/projects/maskconver.
"""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import Conv2d, ConvNorm, Padding, batch_norm, depthwise, kaiming_fan_in, variance_scaling_


class Block(NamedTuple):
    """One row of the table: kernel, stride, channels out, expansion, dilation, level it ends."""

    kernel: int
    stride: int
    out: int
    expand: int
    dilation: int = 1
    level: int | None = None


# Blocks 1…16; block 0 is the 3×3 stem and block 17 the 1×1 convolution to 448 channels that is level 4.
BLOCKS = (
    Block(3, 2, 32, 3),
    Block(3, 1, 32, 2, level=2),
    Block(5, 2, 64, 5),
    Block(3, 1, 64, 3),
    Block(3, 1, 64, 2),
    Block(3, 1, 64, 3, level=3),
    Block(5, 2, 128, 6),
    Block(3, 1, 128, 3),
    Block(3, 1, 128, 3),
    Block(3, 1, 128, 3),
    Block(3, 1, 160, 6),
    Block(3, 1, 160, 4),
    Block(3, 1, 192, 6, dilation=2),
    Block(5, 1, 96, 2, dilation=2),
    Block(5, 1, 96, 4, dilation=2),
    Block(5, 1, 96, 4, dilation=2),
)
STEM_CHANNELS, LAST_CHANNELS = 32, 448


class InvertedBottleneck(nn.Module):
    """1×1 expand → depthwise → 1×1 project, all with batch norm, two with ReLU; identity if it fits."""

    def __init__(self, inp: int, block: Block, *, padding: Padding, momentum: float) -> None:
        super().__init__()
        wide = inp * block.expand
        self.expand = Conv2d(inp, wide, 1)
        self.expand_bn = batch_norm(wide, momentum)
        self.dw = depthwise(wide, block.kernel, block.stride, dilation=block.dilation, padding=padding)
        self.dw_bn = batch_norm(wide, momentum)
        self.project = Conv2d(wide, block.out, 1)
        self.project_bn = batch_norm(block.out, momentum)
        self.residual = block.stride == 1 and inp == block.out

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.expand_bn(self.expand(x)))
        y = F.relu(self.dw_bn(self.dw(y)))
        y = self.project_bn(self.project(y))
        return x + y if self.residual else y


class MobileNetMH(nn.Module):
    """MobileNet-MH: 1,661,280 parameters with batch-norm statistics.

    Args:
        in_channels: channels of the image.
        padding: see `layers.Conv2d`.
        momentum: of the batch norms, in PyTorch's sense.
        block13_dilation: of the depthwise convolution of block 13, the first at stride 16 that is dilated; 2
            as the published files, 1 as MOSAIC (MLPerf Mobile) runs it. Weights fit both.
    """

    def __init__(
        self,
        in_channels: int = 3,
        padding: Padding = "same",
        momentum: float = 0.01,
        *,
        block13_dilation: int = 2,
    ) -> None:
        super().__init__()
        self.block0 = ConvNorm(in_channels, STEM_CHANNELS, 3, stride=2, padding=padding, momentum=momentum)
        self.channels: dict[int, int] = {}
        inp = STEM_CHANNELS
        for index, block in enumerate(BLOCKS, 1):
            if index == 13:
                block = block._replace(dilation=block13_dilation)
            self.add_module(
                f"block{index}", InvertedBottleneck(inp, block, padding=padding, momentum=momentum)
            )
            inp = block.out
            if block.level:
                self.channels[block.level] = inp
        self.block17 = ConvNorm(inp, LAST_CHANNELS, momentum=momentum)
        self.channels[4] = LAST_CHANNELS
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                variance_scaling_(module.weight, kaiming_fan_in(module))

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        """Images B×3×H×W float to {2: B×32×H/4×W/4, 3: B×64×H/8×W/8, 4: B×448×H/16×W/16}."""
        features: dict[int, Tensor] = {}
        x = self.block0(images)
        for index, block in enumerate(BLOCKS, 1):
            x = self.get_submodule(f"block{index}")(x)
            if block.level:
                features[block.level] = x
        features[4] = self.block17(x)
        return features
