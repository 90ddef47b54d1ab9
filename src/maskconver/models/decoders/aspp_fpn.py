"""ASPP followed by a light top-down path, for heads finer than stride 8 (ours; small objects)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import Conv2d, ConvNorm, batch_norm, depthwise, resize
from .aspp import ASPP


class TopDown(nn.Module):
    """Adds a projected finer feature to the upsampled coarser one and mixes with a separable convolution."""

    def __init__(self, low: int, filters: int, momentum: float) -> None:
        super().__init__()
        self.lateral = ConvNorm(low, filters, momentum=momentum)
        self.dw = depthwise(filters, 5)
        self.pw = Conv2d(filters, filters, 1)
        self.bn = batch_norm(filters, momentum)

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        x = resize(coarse, fine.shape[-2:]) + self.lateral(fine)
        return F.relu(self.bn(self.pw(self.dw(x)))) + x


class ASPPFPN(nn.Module):
    """ASPP at the deepest level, then top-down additions to `finest`.

    Args:
        channels: channels of the backbone's features by level.
        filters: channels everywhere in the decoder.
        finest: level of the output.
        momentum: of the batch norms.
    """

    def __init__(self, channels: dict[int, int], filters: int, finest: int, momentum: float = 0.01) -> None:
        super().__init__()
        top = max(channels)
        self.aspp = ASPP(channels[top], filters, momentum=momentum)
        self.levels = [level for level in sorted(channels, reverse=True) if finest <= level < top]
        self.steps = nn.ModuleDict({str(n): TopDown(channels[n], filters, momentum) for n in self.levels})

    def forward(self, features: dict[int, Tensor]) -> Tensor:
        """{level: B×C×h×w} to B×filters×h×w at the finest level."""
        x = self.aspp(features[max(features)])
        for level in self.levels:
            x = self.steps[str(level)](x, features[level])
        return x
