"""Feature pyramids: the FPN of the multi-scale MaskConver and the papers' baseline, BiFPN."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import (
    Activation,
    Conv2d,
    LayerNorm2d,
    SeparableConv2d,
    activation_function,
    batch_norm,
    upsample2,
)

Norm = Literal["layer", "batch"]


def norm2d(kind: Norm, channels: int, momentum: float) -> nn.Module:
    """Layer norm over channels, or batch norm."""
    return LayerNorm2d(channels) if kind == "layer" else batch_norm(channels, momentum)


def convolution(inp: int, out: int, kernel: int, *, stride: int = 1, separable: bool = False) -> nn.Module:
    """A convolution with bias, or depthwise and 1×1 with nothing between."""
    if separable:
        return SeparableConv2d(inp, out, kernel, stride=stride)
    conv = Conv2d(inp, out, kernel, stride=stride, bias=True)
    nn.init.xavier_uniform_(conv.weight)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv


class FPN(nn.Module):
    """Laterals, top-down path, output convolutions, coarser levels by stride 2, a norm per level at the end.

    With `concat` the top-down path carries the concatenated map: filters, 2·filters, 3·filters, … channels.
    The coarser levels come from the outputs before their norm.

    Args:
        channels: of the features by level.
        levels: of the pyramid, finest first; those the features lack are made by stride 2.
        filters: channels of every output.
        fusion: `concat` or `sum`.
        separable: all convolutions are separable.
        kernel: of the output convolutions.
        norm: `layer` or `batch`.
        activation: before the second and further coarser levels.
        momentum: of the batch norms.
    """

    def __init__(
        self,
        channels: dict[int, int],
        levels: Sequence[int] = (3, 4, 5, 6, 7),
        filters: int = 256,
        *,
        fusion: Literal["concat", "sum"] = "concat",
        separable: bool = True,
        kernel: int = 7,
        norm: Norm = "layer",
        activation: Activation = "gelu",
        momentum: float = 0.01,
    ) -> None:
        super().__init__()
        self.fusion, self.activation = fusion, activation_function(activation)
        self.own = [level for level in levels if level in channels]
        self.extras = [level for level in levels if level > max(self.own)]
        lateral, post, extra = {}, {}, {}
        width = 0
        for level in reversed(self.own):
            lateral[str(level)] = convolution(channels[level], filters, 1, separable=separable)
            width = width + filters if fusion == "concat" else filters
            post[str(level)] = convolution(width, filters, kernel, separable=separable)
        for level in self.extras:
            extra[str(level)] = convolution(filters, filters, 3, stride=2, separable=separable)
        self.lateral, self.post, self.extra = map(nn.ModuleDict, (lateral, post, extra))
        self.norm = nn.ModuleDict({str(level): norm2d(norm, filters, momentum) for level in levels})

    def forward(self, features: dict[int, Tensor]) -> dict[int, Tensor]:
        """{level: B×C×h×w} to {level: B×filters×h×w} of all levels, finest first."""
        outputs: dict[int, Tensor] = {}
        x: Tensor | None = None
        for level in reversed(self.own):
            lateral = self.lateral[str(level)](features[level])
            if x is None:
                x = lateral
            elif self.fusion == "concat":
                x = torch.cat([upsample2(x, lateral), lateral], 1)
            else:
                x = upsample2(x, lateral) + lateral
            outputs[level] = self.post[str(level)](x)
        for number, level in enumerate(self.extras):
            coarse = outputs[level - 1]
            outputs[level] = self.extra[str(level)](self.activation(coarse) if number else coarse)
        return {level: self.norm[str(level)](outputs[level]) for level in sorted(outputs)}


class Fuse(nn.Module):
    """A weighted mean of maps of one size, activation, separable 3×3, batch norm (EfficientDet §3.3)."""

    def __init__(self, inputs: int, filters: int, activation: Activation, *, momentum: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(inputs))
        self.conv = SeparableConv2d(filters, filters, 3)
        self.bn = batch_norm(filters, momentum)
        self.activation = activation_function(activation)

    def forward(self, *maps: Tensor) -> Tensor:
        weight = F.relu(self.weight)
        weight = weight / (weight.sum() + 1e-4)
        x = sum((w * m for w, m in zip(weight.unbind(), maps)), torch.zeros_like(maps[0]))
        return self.bn(self.conv(self.activation(x)))


class BiFPN(nn.Module):
    """Top-down and bottom-up paths with learnt weights, repeated (EfficientDet, arXiv 1911.09070, §3).

    Args:
        channels: of the features by level.
        levels: of the pyramid, finest first, without gaps.
        filters: channels of every output.
        repeats: how many times both paths are run.
        activation: before each convolution.
        momentum: of the batch norms.
    """

    def __init__(
        self,
        channels: dict[int, int],
        levels: Sequence[int] = (3, 4, 5, 6, 7),
        filters: int = 256,
        *,
        repeats: int = 3,
        activation: Activation = "swish",
        momentum: float = 0.01,
    ) -> None:
        super().__init__()
        self.levels = list(levels)
        self.own = [level for level in levels if level in channels]

        def lateral(level: int) -> nn.Module:
            inp = channels[min(level, self.own[-1])]
            return nn.Sequential(Conv2d(inp, filters, 1, bias=True), batch_norm(filters, momentum))

        # Every own level has its 1×1, and the coarsest feature another one for what becomes the next level.
        made = levels[: len(self.own) + 1]
        self.lateral = nn.ModuleDict({str(level): lateral(level) for level in made})

        def path(steps: Sequence[int], inputs: dict[int, int]) -> nn.ModuleDict:
            fuses = {n: Fuse(inputs.get(n, 2), filters, activation, momentum=momentum) for n in steps}
            return nn.ModuleDict({str(n): fuse for n, fuse in fuses.items()})

        three = dict.fromkeys(levels[1:-1], 3)
        self.down = nn.ModuleList(path(levels[:-1], {}) for _ in range(repeats))
        self.up = nn.ModuleList(path(levels[1:], three) for _ in range(repeats))

    def forward(self, features: dict[int, Tensor]) -> dict[int, Tensor]:
        """{level: B×C×h×w} to {level: B×filters×h×w} of all levels, finest first."""
        maps: dict[int, Tensor] = {}
        for level in self.levels:
            if level in self.own:
                maps[level] = self.lateral[str(level)](features[level])
            elif str(level) in self.lateral:
                maps[level] = _half(self.lateral[str(level)](features[self.own[-1]]))
            else:
                maps[level] = _half(maps[level - 1])
        for down, up in zip(self.down, self.up):
            middle = dict(maps)
            for level in reversed(self.levels[:-1]):
                coarse = upsample2(middle[level + 1], maps[level])
                middle[level] = down[str(level)](maps[level], coarse)  # type: ignore[index]
            out = {self.levels[0]: middle[self.levels[0]]}
            for level in self.levels[1:]:
                inputs = [maps[level], _half(out[level - 1])]
                if level != self.levels[-1]:
                    inputs.insert(1, middle[level])
                out[level] = up[str(level)](*inputs)  # type: ignore[index]
            maps = out
        return maps


def _half(x: Tensor) -> Tensor:
    """3×3 maximum at stride 2, ceil(n / 2) positions."""
    return F.max_pool2d(x, 3, 2, padding=1)
