"""Layers that every family shares: convolutions with the reference's padding, norms and resizing."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

Padding = Literal["same", "symmetric"]
Activation = Literal["relu", "swish", "gelu"]
BN_EPS, LN_EPS = 1e-3, 1e-6

gelu_tanh = partial(F.gelu, approximate="tanh")
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "swish": F.silu, "gelu": F.gelu}


def activation_function(name: Activation, *, tanh: bool = False) -> Callable[[Tensor], Tensor]:
    """An activation by name. With `tanh`, GELU is its tanh approximation."""
    return gelu_tanh if tanh and name == "gelu" else _ACTIVATIONS[name]


class DilatedDepthwise(torch.autograd.Function):
    """A dilated depthwise convolution at stride 1 that keeps the size, with a backward pass of its own.

    oneDNN, which PyTorch uses on CPUs, has no fast backward pass for these: here the gradient of the input is
    a convolution with the turned kernel, and that of each tap a sum of products of two shifted maps; 4 to 5×
    faster than PyTorch's for 576 channels of 16×16. Numbers differ by rounding only.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, dilation: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.dilation = dilation
        reach = dilation * (weight.shape[-1] - 1) // 2
        return F.conv2d(x, weight, None, 1, reach, dilation, len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors
        kernel, d = weight.shape[-1], ctx.dilation
        reach = d * (kernel - 1) // 2
        of_input = F.conv2d(grad, weight.flip(2, 3), None, 1, reach, d, len(weight))
        of_weight = torch.zeros_like(weight)
        shifts = [(d * i - reach, _overlap(d * i - reach)) for i in range(kernel)]
        for i, (down, rows) in enumerate(shifts):
            for j, (right, columns) in enumerate(shifts):
                if abs(down) < x.shape[2] and abs(right) < x.shape[3]:
                    product = x[:, :, rows[0], columns[0]] * grad[:, :, rows[1], columns[1]]
                    of_weight[:, 0, i, j] = product.sum((0, 2, 3))
        return of_input, of_weight, None


def _overlap(shift: int) -> tuple[slice, slice]:
    """The part of an axis of the input and that of the output that a tap with this shift joins."""
    if shift > 0:
        return slice(shift, None), slice(None, -shift)
    return slice(None, shift or None), slice(-shift, None)


def trains_on_cpu(x: Tensor) -> bool:
    """Whether a gradient through `x` will be asked for, in float32, on a CPU, and no graph is being drawn."""
    return (
        x.requires_grad
        and torch.is_grad_enabled()
        and x.device.type == "cpu"
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
    )


class Conv2d(nn.Conv2d):
    """A bias-free convolution that keeps `ceil(n / stride)` positions.

    Args:
        in_channels, out_channels, kernel: as in `nn.Conv2d`.
        stride, dilation, groups: as in `nn.Conv2d`.
        padding: `same` pads as TensorFlow does, `max((ceil(n/s)-1)*s + (k-1)*d + 1 - n, 0)` in all with the
            smaller half first; `symmetric` pads `d*(k-1)/2` on both sides.
        bias: whether there is a bias.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
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
        self.spread = (
            dilation > 1 and stride == 1 and groups == in_channels == out_channels > 1 and not bias
        )  # a dilated depthwise one
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
        elif self.spread and trains_on_cpu(x):
            return DilatedDepthwise.apply(x, self.weight, self.dilation[0])
        return super().forward(x)

    def _total(self, n: int) -> int:
        # The formula of the class docstring, written so that multiples of the stride give a constant: a graph
        # exported for any such size has the padding in it as a number.
        stride = self.stride[0]
        return max(self.reach + 1 - (n % stride or stride), 0)


def depthwise(
    channels: int,
    kernel: int,
    stride: int = 1,
    *,
    dilation: int = 1,
    padding: Padding = "same",
    bias: bool = False,
) -> Conv2d:
    """A depthwise convolution, one kernel per channel."""
    return Conv2d(
        channels,
        channels,
        kernel,
        stride=stride,
        dilation=dilation,
        groups=channels,
        padding=padding,
        bias=bias,
    )


def batch_norm(channels: int, momentum: float = 0.01, eps: float = BN_EPS) -> nn.BatchNorm2d:
    """Batch norm with the reference's epsilon; `momentum` in PyTorch's sense (1 − Keras momentum)."""
    return nn.BatchNorm2d(channels, eps=eps, momentum=momentum)


def use_onednn(model: nn.Module) -> int:
    """Has oneDNN compute the 1×1 convolutions of a network on one CPU thread, as it does on several.

    With one thread, PyTorch computes these as matrix products, unless they are dilated (`use_mkldnn` in
    aten/src/ATen/native/Convolution.cpp). On an AMD EPYC oneDNN is twice as fast, forwards and backwards; on
    an Intel Xeon it gains a little where weights are few, and loses where they are many: there those with
    more than 32,768 stay as they are. A kernel of one pixel has nothing to dilate, so results stay the same
    but for rounding.

    Args:
        model: the dilation of such convolutions becomes 2; nothing changes where several threads are used,
            where weights are not float32 on a CPU, or where PyTorch has no oneDNN for AVX.

    Returns:
        How many were changed.

    >>> use_onednn(nn.Conv2d(8, 8, 3))  # not a 1×1 convolution
    0
    """
    has_onednn = torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability()[:3] == "AVX"
    if not has_onednn or torch.get_num_threads() > 1:
        return 0
    most = 2**15 if _on_intel() else math.inf
    found = [
        m
        for m in model.modules()
        if isinstance(m, nn.Conv2d)
        and (m.kernel_size, m.stride, m.dilation, m.groups) == ((1, 1), (1, 1), (1, 1), 1)
        and (m.weight.device.type, m.weight.dtype) == ("cpu", torch.float32)
        and m.weight.numel() <= most
    ]
    for convolution in found:
        convolution.dilation = (2, 2)
    return len(found)


@cache
def _on_intel() -> bool:
    """Whether the processor is one of Intel's, whose matrix products PyTorch's MKL is made for."""
    names = os.environ.get("PROCESSOR_IDENTIFIER", "")  # on Windows
    with suppress(OSError):
        names += Path("/proc/cpuinfo").read_text(errors="replace")
    return "GenuineIntel" in names


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of B×C×H×W, each position by itself."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=LN_EPS)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class DropPath(nn.Module):
    """Stochastic depth: training drops a sample's branch with probability `rate` and scales the others up."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.rate:
            return x
        keep = x.new_empty(len(x), *[1] * (x.dim() - 1)).bernoulli_(1 - self.rate)
        return x * (keep / (1 - self.rate))


def recomputed(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`function(x)`, of which training keeps `x` alone and calculates the rest again in the backward pass.

    For chains of cheap operations without running statistics or draws: the same numbers in less memory.
    """
    if torch.is_grad_enabled() and x.requires_grad and not torch.compiler.is_compiling():
        return checkpoint(function, x, use_reentrant=False, preserve_rng_state=False)
    return function(x)


def upsample2(x: Tensor, like: Tensor | None = None) -> Tensor:
    """Nearest, twice the size; cut to the size of `like`, whose sides may be odd."""
    x = F.interpolate(x, scale_factor=2.0, mode="nearest")
    return x if like is None else x[..., : like.shape[-2], : like.shape[-1]]


def pad_to_multiple(images: Tensor, multiple: int) -> Tensor:
    """B×C×H×W with zeros right and below, so that both sides are multiples."""
    bottom, right = (-n % multiple for n in images.shape[-2:])
    return F.pad(images, (0, right, 0, bottom)) if bottom or right else images


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear, half-pixel centres, no antialiasing; B×C×H×W to B×C×`size`."""
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


class ConvNorm(nn.Module):
    """Convolution, batch norm and ReLU (or another, or nothing); named as in the reference's variables."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 1,
        *,
        stride: int = 1,
        padding: Padding = "same",
        momentum: float = 0.01,
        dilation: int = 1,
        activation: Activation | None = "relu",
        groups: int = 1,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.conv = Conv2d(
            in_channels,
            out_channels,
            kernel,
            stride=stride,
            dilation=dilation,
            groups=groups,
            padding=padding,
            bias=bias,
        )
        self.bn = batch_norm(out_channels, momentum)
        self.activation = activation_function(activation) if activation else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x))
        return x if self.activation is None else self.activation(x)


class SeparableConv2d(nn.Module):
    """Depthwise without bias, then 1×1 with bias; nothing between (Keras' `SeparableConv2D`)."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, *, stride: int = 1) -> None:
        super().__init__()
        self.dw = depthwise(in_channels, kernel, stride)
        self.pw = Conv2d(in_channels, out_channels, 1, bias=True)
        for conv in (self.dw, self.pw):
            nn.init.xavier_uniform_(conv.weight)
        nn.init.zeros_(self.pw.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return self.pw(self.dw(x))


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
