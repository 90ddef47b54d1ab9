"""Layers that every family shares: convolutions with the reference's padding, norms and resizing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Padding = Literal["same", "symmetric"]
BN_EPS = 1e-3


class Conv2d(nn.Conv2d):
    """A bias-free convolution that keeps `ceil(n / stride)` positions.

    Args:
        in_channels, out_channels, kernel: as in `nn.Conv2d`.
        stride, dilation, groups: as in `nn.Conv2d`.
        padding: `same` pads as TensorFlow does, `max((ceil(n/s)-1)*s + (k-1)*d + 1 - n, 0)` in all with the
            smaller half first (reference page §2); `symmetric` pads `d*(k-1)/2` on both sides.
        bias: whether there is a bias.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        padding: Padding = "same",
        bias: bool = False,
    ) -> None:
        # At stride 1 both paddings are the same; only a stride makes the reference's rule depend on the input
        # size.
        self.reach = dilation * (kernel - 1)
        self.dynamic = padding == "same" and stride > 1
        super().__init__(
            in_channels,
            out_channels,
            kernel,
            stride,
            padding=0 if self.dynamic else self.reach // 2,
            dilation=dilation,
            groups=groups,
            bias=bias,
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.dynamic and self.reach:
            bottom, right = (self._total(n) for n in x.shape[-2:])
            x = F.pad(x, (right // 2, right - right // 2, bottom // 2, bottom - bottom // 2))
        return super().forward(x)

    def _total(self, n: int) -> int:
        stride = self.stride[0]
        return max((-(-n // stride) - 1) * stride + self.reach + 1 - n, 0)


def depthwise(
    channels: int, kernel: int, stride: int = 1, dilation: int = 1, padding: Padding = "same"
) -> Conv2d:
    """A depthwise convolution, one kernel a channel."""
    return Conv2d(channels, channels, kernel, stride, dilation, groups=channels, padding=padding)


def batch_norm(channels: int, momentum: float = 0.01) -> nn.BatchNorm2d:
    """Batch norm with the reference's epsilon; `momentum` in PyTorch's sense (1 − Keras momentum)."""
    return nn.BatchNorm2d(channels, eps=BN_EPS, momentum=momentum)


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear, half-pixel centres, no antialiasing; B×C×H×W to B×C×`size`."""
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


class ConvNorm(nn.Module):
    """Convolution, batch norm and (by default) ReLU; parts named as in the reference's variables."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 1,
        stride: int = 1,
        padding: Padding = "same",
        momentum: float = 0.01,
    ) -> None:
        super().__init__()
        self.conv = Conv2d(in_channels, out_channels, kernel, stride, padding=padding)
        self.bn = batch_norm(out_channels, momentum)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


@torch.no_grad()
def variance_scaling_(weight: Tensor, fan_in: int) -> None:
    """Keras' VarianceScaling(1, fan_in, truncated normal): deviation sqrt(1 / fan_in) after the cut at 2σ."""
    std = math.sqrt(1.0 / fan_in) / 0.87962566103423978
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)


def full_precision(device_type: str) -> AbstractContextManager[Any]:
    """Switches autocast off where it is on; leaves no trace in an exported graph where it is not."""
    if torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()


def kaiming_fan_in(conv: nn.Conv2d) -> int:
    """fan_in as Keras counts it: a depthwise kernel `(k, k, C, 1)` counts k·k·C."""
    k = conv.kernel_size[0] * conv.kernel_size[1]
    return k * (conv.in_channels if conv.groups in (1, conv.in_channels) else conv.in_channels // conv.groups)
