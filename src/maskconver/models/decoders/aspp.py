"""Atrous spatial pyramid pooling (DeepLabv3, arXiv 1706.05587, §3.3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import (
    Activation,
    Conv2d,
    ConvNorm,
    activation_function,
    batch_norm,
    depthwise,
    kaiming_fan_in,
    resize,
    variance_scaling_,
)


class Atrous(nn.Module):
    """Dilated depthwise 3×3, then 1×1, batch norm, ReLU; nothing between the two convolutions."""

    def __init__(self, inp: int, out: int, rate: int, *, momentum: float, activation: Activation) -> None:
        super().__init__()
        self.dw = depthwise(inp, 3, dilation=rate)
        self.pw = ConvNorm(inp, out, momentum=momentum, activation=activation)
        nn.init.xavier_uniform_(self.dw.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.pw(self.dw(x))


class ASPP(nn.Module):
    """Five branches (1×1, three dilated, pooled), concatenated and projected.

    Args:
        in_channels: channels of the deepest feature.
        filters: channels of every branch and of the output.
        rates: dilations of the three atrous branches.
        pool_window: (height, width) in cells of an average pool with that stride; None pools globally.
        momentum: of the batch norms.
        separable: the atrous branches are depthwise and 1×1; otherwise full 3×3 convolutions.
        activation: after every batch norm.
    """

    def __init__(
        self,
        in_channels: int,
        filters: int = 256,
        rates: tuple[int, ...] = (6, 12, 18),
        *,
        pool_window: tuple[int, int] | None = None,
        momentum: float = 0.01,
        separable: bool = True,
        activation: Activation = "relu",
    ) -> None:
        super().__init__()

        def atrous(rate: int) -> nn.Module:
            if separable:
                return Atrous(in_channels, filters, rate, momentum=momentum, activation=activation)
            return ConvNorm(in_channels, filters, 3, momentum=momentum, dilation=rate, activation=activation)

        self.branch0 = ConvNorm(in_channels, filters, momentum=momentum, activation=activation)
        self.atrous = nn.ModuleList(atrous(rate) for rate in rates)
        self.pool = ConvNorm(in_channels, filters, momentum=momentum, activation=activation)
        self.project = ConvNorm(filters * (len(rates) + 2), filters, momentum=momentum, activation=activation)
        self.activation = activation_function(activation)
        self.pool_window = pool_window
        for module in self.modules():
            if isinstance(module, Conv2d) and module.groups == 1:
                variance_scaling_(module.weight, kaiming_fan_in(module))

    def forward(self, x: Tensor) -> Tensor:
        """B×in×h×w to B×filters×h×w."""
        if self.pool_window is None:
            pooled = self._pooled(x.mean((2, 3), keepdim=True)).expand(-1, -1, *x.shape[-2:])
        else:
            # Windows that do not fit are left out (VALID); a map smaller than one window is one window.
            window = tuple(min(w, n) for w, n in zip(self.pool_window, x.shape[-2:]))
            pooled = resize(self._pooled(F.avg_pool2d(x, window, window)), x.shape[-2:])
        return self.project(torch.cat([self.branch0(x), *(branch(x) for branch in self.atrous), pooled], 1))

    def _pooled(self, means: Tensor) -> Tensor:
        """The pooling branch after its average, B×in×h×w to B×filters×h×w."""
        bn = self.pool.bn
        if bn.training and means[:, 0].numel() == 1 and type(bn) is nn.BatchNorm2d:
            # One value per channel has no variance: one image alone is normalised by running statistics.
            normed = F.batch_norm(
                self.pool.conv(means), bn.running_mean, bn.running_var, bn.weight, bn.bias, eps=bn.eps
            )
            return self.activation(normed)
        return self.pool(means)


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

    def __init__(
        self, channels: dict[int, int], filters: int, finest: int, *, momentum: float = 0.01
    ) -> None:
        super().__init__()
        top, self.finest = max(channels), finest
        self.aspp = ASPP(channels[top], filters, momentum=momentum)
        self.levels = [level for level in sorted(channels, reverse=True) if finest <= level < top]
        self.steps = nn.ModuleDict({str(n): TopDown(channels[n], filters, momentum) for n in self.levels})

    def forward(self, features: dict[int, Tensor]) -> dict[int, Tensor]:
        """{level: B×C×h×w} to B×filters×h×w of the finest level alone."""
        x = self.aspp(features[max(features)])
        for level in self.levels:
            x = self.steps[str(level)](x, features[level])
        return {self.finest: x}
