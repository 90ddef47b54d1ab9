"""The prediction heads and the embedding MLP (MaskConver, arXiv 2312.06052, §3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import (
    LN_EPS,
    Activation,
    Conv2d,
    ConvNorm,
    LayerNorm2d,
    activation_function,
    depthwise,
    recomputed,
    resize,
)
from .config import ClassEmbedding


class Detail(NamedTuple):
    """The backbone's feature that a head takes in before its convolutions.

    Attributes:
        channels: of the feature.
        fusion: `sum` or `concat`.
        filters: channels it is projected to; as many as the head's input for `sum`.
        momentum: of the projection's batch norm.
    """

    channels: int
    fusion: Literal["sum", "concat"]
    filters: int
    momentum: float = 0.01


class Head(nn.Module):
    """Convolutions, each with norm and activation, and a last one without.

    Args:
        in_channels: channels of the input.
        filters: channels of the convolutions.
        out_channels: channels of the output.
        depth: number of (separable) convolutions.
        kernel: of the depthwise or full convolutions.
        separable: depthwise and 1×1, each with norm and activation, and a 1×1 output; otherwise full
            convolutions and a 3×3 output.
        norm: makes a norm for so many channels.
        activation: after each norm.
        levels: the convolutions are shared by these levels, the norms are not; empty for a head of one level.
        detail: a backbone feature to take in first; None for none.
        bias: initial bias of the output.
    """

    def __init__(
        self,
        in_channels: int,
        filters: int,
        out_channels: int,
        *,
        depth: int,
        kernel: int,
        separable: bool = True,
        norm: Callable[[int], nn.Module] = LayerNorm2d,
        activation: Activation = "gelu",
        levels: Sequence[int] = (),
        detail: Detail | None = None,
        bias: float = 0.0,
    ) -> None:
        super().__init__()
        self.activation = activation_function(activation, tanh=True)
        first = in_channels + detail.filters if detail and detail.fusion == "concat" else in_channels
        inputs = ([first] + [filters] * depth)[:depth]
        outputs = {"dw": inputs, "pw": [filters] * depth} if separable else {"conv": [filters] * depth}
        if separable:
            self.dw = nn.ModuleList(depthwise(c, kernel) for c in inputs)
            self.pw = nn.ModuleList(Conv2d(c, filters, 1) for c in inputs)
        else:
            self.conv = nn.ModuleList(Conv2d(c, filters, kernel) for c in inputs)
        self.steps = tuple((i, kind) for i in range(depth) for kind in outputs)
        self.stateless = norm is LayerNorm2d
        self.levels = tuple(levels)

        def norms() -> nn.ModuleDict:
            return nn.ModuleDict({k: nn.ModuleList(norm(c) for c in v) for k, v in outputs.items()})

        self.norm = nn.ModuleDict({str(n): norms() for n in levels}) if levels else norms()
        last = filters if depth else first
        self.out = Conv2d(last, out_channels, 1 if separable else 3, bias=True)
        for name in outputs:
            for conv in getattr(self, name):
                if name == "dw":
                    nn.init.xavier_uniform_(conv.weight)
                else:
                    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        nn.init.trunc_normal_(self.out.weight, std=0.01, a=-0.02, b=0.02)
        assert self.out.bias is not None
        nn.init.constant_(self.out.bias, bias)
        self.fusion = detail.fusion if detail else None
        self.lowlevel: ConvNorm | None = None
        if detail:
            self.lowlevel = ConvNorm(
                detail.channels, detail.filters, momentum=detail.momentum, activation=activation
            )
            nn.init.kaiming_normal_(self.lowlevel.conv.weight, nonlinearity="relu")

    def forward(self, x: Tensor, detail: Tensor | None = None, level: int | None = None) -> Tensor:
        """B×in×h×w (and B×low×H×W to take in), of a level where there are several, to B×out×H×W."""
        return self.out(self.convolve(self.join(x, detail), level))

    def join(self, x: Tensor, detail: Tensor | None) -> Tensor:
        """What the convolutions get: B×in×h×w (and B×low×H×W) to B×in×H×W; `concat` adds channels."""
        if self.lowlevel is None:
            return x
        assert detail is not None
        fine = self.lowlevel(detail)
        x = resize(x, fine.shape[-2:])
        return x + fine if self.fusion == "sum" else torch.cat([x, fine], 1)

    def convolve(self, x: Tensor, level: int | None = None, part: slice = slice(None)) -> Tensor:
        """The convolutions before the output, each with its norm and activation.

        Args:
            x: B×in×h×w, or what the step before `part` gave.
            level: whose norms are taken, where there are several.
            part: of the steps, to run only these.

        Returns:
            B×filters×h×w; after a depthwise step as many channels as it took.
        """
        norms = self.norm[str(level)] if self.levels else self.norm
        for i, kind in self.steps[part]:
            norm: nn.Module = norms[kind][i]  # type: ignore[index]
            x = getattr(self, kind)[i](x)
            if self.stateless:
                x = recomputed(lambda v, norm=norm: self.activation(norm(v)), x)  # type: ignore[misc]
            else:
                x = self.activation(norm(x))
        return x


class SumFusion(nn.Module):
    """All levels resized bilinearly to one stride and added; nothing to learn (`pyramid_fusion`)."""

    def forward(self, pyramid: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        """Maps B×C×h×w of any sizes to B×C×`size`."""
        first, *others = (resize(x, size) for x in pyramid)
        for x in others:
            first = first + x
        return first


class PanopticFPNFusion(nn.Module):
    """Each level by steps of 3×3, GroupNorm, activation, nearest ×2 to one stride; then added.

    Args:
        channels: of every level.
        levels: of the pyramid.
        filters: channels out.
        target: level of the output.
        activation: after each norm.
    """

    def __init__(
        self,
        channels: int,
        levels: Sequence[int],
        filters: int = 256,
        *,
        target: int = 2,
        activation: Activation = "swish",
    ) -> None:
        super().__init__()
        self.levels, self.activation = tuple(levels), activation_function(activation)

        def step(inp: int) -> nn.ModuleDict:
            conv, norm = Conv2d(inp, filters, 3, bias=True), nn.GroupNorm(min(32, filters), filters, eps=1e-3)
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
            return nn.ModuleDict({"conv": conv, "gn": norm})

        def steps(level: int) -> nn.ModuleList:
            return nn.ModuleList(step(filters if i else channels) for i in range(max(level - target, 1)))

        self.steps = nn.ModuleDict({str(level): steps(level) for level in levels})

    def forward(self, pyramid: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        """Maps B×C×h×w by level to B×filters×`size`."""
        total: Tensor | None = None
        for level, x in zip(self.levels, pyramid):
            for step in self.steps[str(level)]:  # type: ignore[attr-defined]
                x = self.activation(step["gn"](step["conv"](x)))
                x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            x = x[..., : size[0], : size[1]]
            total = x if total is None else total + x
        assert total is not None
        return total


class MLP(nn.Module):
    """Dense, LayerNorm, activation, dense: the mask embedding from a centre embedding and its class's."""

    def __init__(
        self, dim: int, out: int, hidden: int | None = None, *, activation: Activation = "relu"
    ) -> None:
        super().__init__()
        hidden = hidden or dim
        self.fc1 = nn.Linear(dim, hidden)
        self.ln = nn.LayerNorm(hidden, eps=LN_EPS)
        self.fc2 = nn.Linear(hidden, out)
        self.activation = activation_function(activation)
        for layer in (self.fc1, self.fc2):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(…, dim) to (…, out)."""
        return self.fc2(self.activation(self.ln(self.fc1(x))))


def with_class(embeddings: Tensor, class_embeddings: Tensor | None, how: ClassEmbedding) -> Tensor:
    """Centre embeddings (…, D) told their class: multiplied, added or nothing."""
    if how == "none" or class_embeddings is None:
        return embeddings
    return embeddings * class_embeddings if how == "multiply" else embeddings + class_embeddings
