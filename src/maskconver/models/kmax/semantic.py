"""The auxiliary semantic heads of kMaX-DeepLab, which only training uses (google-research/deeplab2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..decoders.aspp import ASPP
from .axial import conv_norm
from .pixel_decoder import resize_aligned

DIM, DROPOUT = 256, 0.1
LOW = {3: 64, 2: 32}


def depthwise_norm(channels: int, momentum: float) -> nn.Module:
    """5×5 depthwise convolution, batch norm, GELU."""
    layer = conv_norm(channels, channels, 5, groups=channels, momentum=momentum)
    nn.init.xavier_uniform_(layer.conv.weight)
    return layer


def classifier(outputs: int) -> nn.Conv2d:
    """1×1 convolution with bias to one channel per class."""
    conv = nn.Conv2d(DIM, outputs, 1)
    nn.init.trunc_normal_(conv.weight, std=0.01, a=-0.02, b=0.02)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv


class SemanticDecoder(nn.Module):
    """ASPP on the coarsest backbone feature, refined with those of strides 8 and 4, classified at stride 4.

    Args:
        channels: of the backbone's features by level (2, 3 and 5).
        outputs: channels of the result.
        momentum: of the batch norms.
    """

    def __init__(self, channels: dict[int, int], outputs: int, momentum: float = 0.01) -> None:
        super().__init__()
        self.aspp = ASPP(channels[5], DIM, momentum=momentum, separable=False, activation="gelu")
        self.dropout = nn.Dropout(DROPOUT)
        self.low8 = conv_norm(channels[3], LOW[3], momentum=momentum)
        self.low4 = conv_norm(channels[2], LOW[2], momentum=momentum)
        self.fuse8 = nn.Sequential(
            depthwise_norm(DIM + LOW[3], momentum), conv_norm(DIM + LOW[3], DIM, momentum=momentum)
        )
        self.fuse4 = nn.Sequential(
            depthwise_norm(DIM + LOW[2], momentum), conv_norm(DIM + LOW[2], DIM, momentum=momentum)
        )
        self.head = nn.Sequential(depthwise_norm(DIM, momentum), conv_norm(DIM, DIM, momentum=momentum))
        self.out = classifier(outputs)

    def forward(self, features: dict[int, Tensor]) -> Tensor:
        """{level: B×C×h×w} to B×outputs×H/4×W/4."""
        x = self.dropout(self.aspp(features[5]))
        align = x.shape[-1] % 2 == 1  # of both enlargements, decided by this map
        for low, fuse, level in ((self.low8, self.fuse8, 3), (self.low4, self.fuse4, 2)):
            fine = low(features[level])
            x = fuse(torch.cat([resize_aligned(x, fine.shape[-2:], align), fine], 1))
        return self.out(self.head(x))


class SemanticHead(nn.Sequential):
    """Classes straight from the coarsest backbone feature, as for Cityscapes.

    Args:
        channels: of the backbone's features by level.
        outputs: channels of the result.
        momentum: of the batch norms.
    """

    def __init__(self, channels: dict[int, int], outputs: int, momentum: float = 0.01) -> None:
        inp = channels[5]
        super().__init__(
            depthwise_norm(inp, momentum), conv_norm(inp, DIM, momentum=momentum), classifier(outputs)
        )

    def forward(self, features: dict[int, Tensor]) -> Tensor:
        """{level: B×C×h×w} to B×outputs×H/32×W/32."""
        return super().forward(features[5])
