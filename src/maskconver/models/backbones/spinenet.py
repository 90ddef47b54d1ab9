"""SpineNet-Seg 49 and 49+, rebuilt: the original network was never published."""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import Activation, ConvNorm, Padding, activation_function, kaiming_fan_in, variance_scaling_
from .resnet import EXPANSION, Bottleneck, max_pool

STEM_CHANNELS, STEM_STRIDE, ALPHA = 64, 4, 0.5


class Block(NamedTuple):
    """One row of the table: bottleneck width, stride, dilation, and the two blocks it is made from."""

    width: int
    stride: int
    dilation: int
    parents: tuple[int, int]


# Blocks 2…17; blocks 0 and 1 are bottlenecks of width 64 on the stem. The last one is the output.
BLOCKS = (
    Block(128, 8, 1, (0, 1)),
    Block(256, 8, 2, (0, 1)),
    Block(128, 8, 1, (2, 3)),
    Block(512, 16, 1, (2, 4)),
    Block(512, 16, 4, (3, 5)),
    Block(256, 8, 2, (3, 5)),
    Block(512, 16, 2, (6, 7)),
    Block(512, 16, 4, (6, 8)),
    Block(512, 16, 2, (8, 9)),
    Block(512, 16, 2, (8, 10)),
    Block(256, 8, 2, (5, 10)),
    Block(128, 8, 1, (4, 10)),
    Block(512, 16, 2, (7, 12)),
    Block(512, 16, 4, (11, 14)),
    Block(512, 16, 4, (12, 15)),
    Block(128, 8, 1, (13, 16)),
)


class Resample(nn.Module):
    """A parent's map at a block's stride and width: 1×1 to half its width, stride or nearest, 1×1."""

    def __init__(
        self, parent: Block, block: Block, *, padding: Padding, momentum: float, activation: Activation
    ) -> None:
        super().__init__()
        narrow = int(parent.width * ALPHA)
        self.squeeze = ConvNorm(parent.width * EXPANSION, narrow, momentum=momentum, activation=activation)
        self.down: ConvNorm | None = None
        if parent.stride < block.stride:
            self.down = ConvNorm(
                narrow, narrow, 3, stride=2, padding=padding, momentum=momentum, activation=activation
            )
        self.pools = max((block.stride // parent.stride).bit_length() - 2, 0)
        self.expand = ConvNorm(narrow, block.width * EXPANSION, momentum=momentum, activation=None)
        self.padding: Padding = padding

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        x = self.squeeze(x)
        if self.down is not None:
            x = self.down(x)
            for _ in range(self.pools):
                x = max_pool(x, self.padding)
        elif x.shape[-2:] != size:
            x = F.interpolate(x, size=size, mode="nearest-exact")
        return self.expand(x)


class SpineNet(nn.Module):
    """SpineNet-Seg 49 (or 49+), one output of 512 channels at stride 8: **a reconstruction**.

    Code, weights and block table of the original are not public. This network has SpineNet-49's connections
    (arXiv 1912.05027), bottlenecks throughout, and widths and strides chosen so that the whole MaskConver
    meets the published parameters and multiply-accumulates within 3 %; dilations are a proposal.

    Args:
        in_channels: channels of the image.
        padding: see `layers.Conv2d`.
        momentum: of the batch norms.
        activation: everywhere.
        plus: 49+: three 3×3 convolutions as stem and a strided one for its max pool, squeeze-and-excitation
            (ratio 0.25), averaging shortcuts (ResNet-D), stochastic depth 0.1.
    """

    def __init__(
        self,
        in_channels: int = 3,
        padding: Padding = "same",
        *,
        momentum: float = 0.01,
        activation: Activation = "swish",
        plus: bool = False,
    ) -> None:
        super().__init__()
        self.padding: Padding = padding

        def conv(inp: int, out: int, kernel: int, stride: int) -> ConvNorm:
            return ConvNorm(
                inp, out, kernel, stride=stride, padding=padding, momentum=momentum, activation=activation
            )

        if plus:
            stem = [conv(in_channels, 32, 3, 2), conv(32, 32, 3, 1), conv(32, STEM_CHANNELS, 3, 1)]
            stem.append(conv(STEM_CHANNELS, STEM_CHANNELS, 3, 2))
        else:
            stem = [conv(in_channels, STEM_CHANNELS, 7, 2)]
        self.stem, self.pooled = nn.Sequential(*stem), not plus

        def bottleneck(inp: int, width: int, dilation: int = 1) -> Bottleneck:
            return Bottleneck(
                inp,
                width,
                dilation=dilation,
                padding=padding,
                momentum=momentum,
                activation=activation,
                drop=0.1 if plus else 0.0,
                se_ratio=0.25 if plus else 0.0,
                pooled_shortcut=plus,
            )

        first = Block(STEM_CHANNELS, STEM_STRIDE, 1, (0, 0))
        self.rows = (first, first, *BLOCKS)
        self.blocks = nn.ModuleList(
            bottleneck(STEM_CHANNELS if i == 0 else row.width * EXPANSION, row.width, row.dilation)
            for i, row in enumerate(self.rows)
        )
        self.paths = nn.ModuleList(
            nn.ModuleList(
                Resample(self.rows[n], row, padding=padding, momentum=momentum, activation=activation)
                for n in row.parents
            )
            for row in BLOCKS
        )
        self.activation = activation_function(activation)
        self.channels = {3: BLOCKS[-1].width * EXPANSION}
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                variance_scaling_(module.weight, kaiming_fan_in(module))

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        """Images B×3×H×W float to {3: B×512×H/8×W/8}."""
        x = self.stem(images)
        if self.pooled:
            x = max_pool(x, self.padding)
        x = self.blocks[0](x)
        made = [x, self.blocks[1](x)]
        # Sides that are no multiple of 16 round up at every stride, as the strided convolutions do.
        sizes = {STEM_STRIDE: tuple(x.shape[-2:])}
        for stride in (8, 16):
            sizes[stride] = tuple(-(-n // 2) for n in sizes[stride // 2])
        for block, row, paths in zip(list(self.blocks)[2:], BLOCKS, self.paths):
            first, second = (
                path(made[n], sizes[row.stride])
                for n, path in zip(row.parents, paths)  # type: ignore[call-overload]
            )
            made.append(block(self.activation(first + second)))
        return {3: made[-1]}
