"""Depthwise atrous spatial pyramid pooling (reference page §3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import Conv2d, ConvNorm, depthwise, kaiming_fan_in, resize, variance_scaling_


class Atrous(nn.Module):
    """Dilated depthwise 3×3, then 1×1, batch norm, ReLU; nothing between the two convolutions."""

    def __init__(self, inp: int, out: int, rate: int, momentum: float) -> None:
        super().__init__()
        self.dw = depthwise(inp, 3, dilation=rate)
        self.pw = ConvNorm(inp, out, momentum=momentum)
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
    """

    def __init__(
        self,
        in_channels: int,
        filters: int = 256,
        rates: tuple[int, ...] = (6, 12, 18),
        pool_window: tuple[int, int] | None = None,
        momentum: float = 0.01,
    ) -> None:
        super().__init__()
        self.branch0 = ConvNorm(in_channels, filters, momentum=momentum)
        self.atrous = nn.ModuleList(Atrous(in_channels, filters, rate, momentum) for rate in rates)
        self.pool = ConvNorm(in_channels, filters, momentum=momentum)
        self.project = ConvNorm(filters * (len(rates) + 2), filters, momentum=momentum)
        self.pool_window = pool_window
        for module in self.modules():
            if isinstance(module, Conv2d) and module.groups == 1:
                variance_scaling_(module.weight, kaiming_fan_in(module))

    def forward(self, x: Tensor) -> Tensor:
        """B×in×h×w to B×filters×h×w."""
        if self.pool_window is None:
            pooled = self._image_feature(x).expand(-1, -1, *x.shape[-2:])
        else:
            # Windows that do not fit are left out (VALID); a map smaller than one window is one window.
            window = tuple(min(w, n) for w, n in zip(self.pool_window, x.shape[-2:]))
            pooled = resize(self.pool(F.avg_pool2d(x, window, window)), x.shape[-2:])
        return self.project(torch.cat([self.branch0(x), *(branch(x) for branch in self.atrous), pooled], 1))

    def _image_feature(self, x: Tensor) -> Tensor:
        """B×in×h×w to B×filters×1×1."""
        mean, bn = x.mean((2, 3), keepdim=True), self.pool.bn
        if bn.training and len(mean) == 1 and type(bn) is nn.BatchNorm2d:
            # One value a channel has no variance: one image alone is normalised by running statistics.
            normed = F.batch_norm(
                self.pool.conv(mean), bn.running_mean, bn.running_var, bn.weight, bn.bias, eps=bn.eps
            )
            return F.relu(normed)
        return self.pool(mean)
