"""ResNet-50 as the multi-scale MaskConver has it; tensors are named as torchvision's."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import (
    BN_EPS,
    Activation,
    Conv2d,
    DropPath,
    Padding,
    activation_function,
    batch_norm,
    kaiming_fan_in,
    variance_scaling_,
)

DEPTHS, WIDTHS, EXPANSION = (3, 4, 6, 3), (64, 128, 256, 512), 4
TORCHVISION_EPS = 1e-5


class SqueezeExcite(nn.Module):
    """Spatial mean → 1×1 → ReLU → 1×1 → sigmoid → multiply."""

    def __init__(self, channels: int, reduced: int) -> None:
        super().__init__()
        self.reduce = Conv2d(channels, reduced, 1, bias=True)
        self.expand = Conv2d(reduced, channels, 1, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.expand(F.relu(self.reduce(x.mean((2, 3), keepdim=True)))).sigmoid()


class Bottleneck(nn.Module):
    """1×1, 3×3 (with the stride), 1×1, batch norm after each; activation after the sum.

    Args:
        inp: channels in; 4·`width` come out.
        width: of the two inner convolutions.
        stride, dilation: of the 3×3.
        padding: see `layers.Conv2d`.
        momentum: of the batch norms.
        activation: between and after.
        drop: rate of stochastic depth.
        se_ratio: squeeze-and-excitation after the third batch norm, reduced by this ratio; 0 for none.
        pooled_shortcut: the shortcut averages before its 1×1 instead of striding (ResNet-D).
        eps: of the batch norms.
    """

    def __init__(
        self,
        inp: int,
        width: int,
        stride: int = 1,
        *,
        dilation: int = 1,
        padding: Padding = "same",
        momentum: float = 0.01,
        activation: Activation = "gelu",
        drop: float = 0.0,
        se_ratio: float = 0.0,
        pooled_shortcut: bool = False,
        eps: float = BN_EPS,
    ) -> None:
        super().__init__()
        out = width * EXPANSION
        self.conv1, self.bn1 = Conv2d(inp, width, 1), batch_norm(width, momentum, eps)
        self.conv2 = Conv2d(width, width, 3, stride=stride, dilation=dilation, padding=padding)
        self.bn2 = batch_norm(width, momentum, eps)
        self.conv3, self.bn3 = Conv2d(width, out, 1), batch_norm(out, momentum, eps)
        self.se = SqueezeExcite(out, int(out * se_ratio)) if se_ratio else None
        self.downsample: nn.Sequential | None = None
        if stride > 1 or inp != out:
            pool = [nn.AvgPool2d(2, stride, ceil_mode=True)] if pooled_shortcut and stride > 1 else []
            conv = Conv2d(inp, out, 1, stride=1 if pool else stride, padding=padding)
            self.downsample = nn.Sequential(*pool, conv, batch_norm(out, momentum, eps))
        self.drop = DropPath(drop)
        self.activation = activation_function(activation)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.residual(x))

    def residual(self, x: Tensor) -> Tensor:
        """The sum of shortcut and branch, before the activation."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.activation(self.bn1(self.conv1(x)))
        x = self.activation(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x))
        if self.se is not None:
            x = self.se(x)
        return shortcut + self.drop(x)


def max_pool(x: Tensor, padding: Padding) -> Tensor:
    """3×3 maximum at stride 2, padded as `layers.Conv2d` pads."""
    if padding == "symmetric":
        return F.max_pool2d(x, 3, 2, padding=1)
    bottom, right = (1 + n % 2 for n in x.shape[-2:])
    return F.max_pool2d(F.pad(x, (right // 2, 1, bottom // 2, 1), value=float("-inf")), 3, 2)


class ResNet(nn.Module):
    """ResNet-50, features at strides 4, 8, 16 and 32.

    Args:
        in_channels: channels of the image.
        padding: `same` as the reference; `symmetric` as torchvision, with its epsilon of the batch norms too;
            weights are not interchangeable.
        momentum: of the batch norms, in PyTorch's sense.
        activation: everywhere in the network; `relu` with torchvision's weights.
        drop_rates: stochastic depth of the four stages.
        widths: of the stem and the four stages' bottlenecks.
        eps: of the batch norms; None takes that of the padding's origin.
        pool: a max-pool after the stem. Without one, as DeepLab2 has it, the first stage strides instead.
        raw: features before the last activation of their stage, as DeepLab2 taps them.
        stem: the stem's output (after the max-pool, where there is one) is a feature too, as level 1.
    """

    def __init__(
        self,
        in_channels: int = 3,
        padding: Padding = "same",
        *,
        momentum: float = 0.01,
        activation: Activation = "gelu",
        drop_rates: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0),
        widths: tuple[int, ...] = (64, *WIDTHS),
        eps: float | None = None,
        pool: bool = True,
        raw: bool = False,
        stem: bool = False,
    ) -> None:
        super().__init__()
        self.padding: Padding = padding
        self.pool, self.raw, self.stem = pool, raw, stem
        self.conv1 = Conv2d(in_channels, widths[0], 7, stride=2, padding=padding)
        if eps is None:
            eps = BN_EPS if padding == "same" else TORCHVISION_EPS
        self.bn1 = batch_norm(widths[0], momentum, eps)
        self.activation = activation_function(activation)
        inp = widths[0]
        for stage, (width, depth, drop) in enumerate(zip(widths[1:], DEPTHS, drop_rates), 1):
            blocks = []
            for i in range(depth):
                stride = 2 if i == 0 and (stage > 1 or not pool) else 1
                block = Bottleneck(
                    inp,
                    width,
                    stride,
                    padding=padding,
                    momentum=momentum,
                    activation=activation,
                    drop=drop,
                    eps=eps,
                )
                blocks.append(block)
                inp = width * EXPANSION
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
        self.channels = {level: width * EXPANSION for level, width in enumerate(widths[1:], 2)}
        if stem:
            self.channels[1] = widths[0]
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                variance_scaling_(module.weight, kaiming_fan_in(module))

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        """Images B×3×H×W float to {level: B×(4·width)×H/2^level×W/2^level}, levels 2…5, 1 with `stem`."""
        x = self.bn1(self.conv1(images))
        features: dict[int, Tensor] = {}
        if self.stem and self.raw:
            features[1] = x
        x = self.activation(x)
        if self.pool:
            x = max_pool(x, self.padding)
        if self.stem and not self.raw:
            features[1] = x
        for level in range(2, 6):
            *blocks, last = self.get_submodule(f"layer{level - 1}").children()
            for block in blocks:
                x = block(x)
            raw = last.residual(x)  # type: ignore[operator]
            x = self.activation(raw)
            features[level] = raw if self.raw else x
        return features
