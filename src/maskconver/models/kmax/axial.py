"""Axial attention with relative positions, and the residual blocks around it.

Axial-DeepLab, arXiv 2003.07853, as in bytedance/kmax-deeplab.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import Conv2d, ConvNorm, DropPath, Padding, batch_norm

HEADS, MAX_SPAN = 8, 255
Axis = Literal["height", "width"]
Kind = Literal["bottleneck", "axial"]


def he_normal_(conv: nn.Conv2d) -> None:
    """Truncated normal of deviation sqrt(2 / input channels), whatever the kernel's area."""
    std = math.sqrt(2 / conv.in_channels)
    nn.init.trunc_normal_(conv.weight, std=std, a=-2 * std, b=2 * std)


def conv_norm(inp: int, out: int, kernel: int = 1, *, stride: int = 1, **changes: object) -> ConvNorm:
    """Convolution, batch norm, GELU (or `activation`), initialised as kMaX does; symmetric padding."""
    defaults = {"padding": "symmetric", "activation": "gelu"}
    layer = ConvNorm(inp, out, kernel, stride=stride, **{**defaults, **changes})  # type: ignore[arg-type]
    he_normal_(layer.conv)
    return layer


def linear_norm(inp: int, out: int, momentum: float, *, zero: bool = False) -> ConvNorm:
    """1×1 convolution and batch norm without activation; with `zero` its scale starts at 0."""
    layer = conv_norm(inp, out, momentum=momentum, activation=None)
    if zero:
        nn.init.zeros_(layer.bn.weight)
    return layer


class AxialAttention(nn.Module):
    """Self-attention along one axis of a map, 8 heads, with relative positions for queries, keys and values.

    For a line of length L (l the query's position, m the key's; R… the relative tables)

        S = sum over the three parts of BN([q·k, q_l·Rq[l,m], k_m·Rk[l,m]]),   A = softmax_m(S)
        out = sum over the two parts of BN([A v, Σ_m A[l,m] Rv[l,m]])

    Row `m − l + 254` of a table holds what belongs to that distance; farther ones share the last row.

    Args:
        inp: channels in.
        keys, values: channels of keys (and queries) and of values, all heads together.
        axis: along which the lines run.
        momentum: of the batch norms.
    """

    def __init__(self, inp: int, keys: int, values: int, *, axis: Axis, momentum: float = 0.01) -> None:
        super().__init__()
        self.axis, self.keys, self.values = axis, keys, values
        self.qkv, self.qkv_bn = Conv2d(inp, 2 * keys + values, 1), batch_norm(2 * keys + values, momentum)
        nn.init.trunc_normal_(self.qkv.weight, std=inp**-0.5, a=-2 * inp**-0.5, b=2 * inp**-0.5)
        rows = 2 * MAX_SPAN - 1
        self.query_table = nn.Parameter(torch.empty(rows, keys // HEADS))
        self.key_table = nn.Parameter(torch.empty(rows, keys // HEADS))
        self.value_table = nn.Parameter(torch.empty(rows, values // HEADS))
        for table in (self.query_table, self.key_table, self.value_table):
            nn.init.trunc_normal_(table)
        self.similarity_bn = batch_norm(3 * HEADS, momentum)
        self.output_bn = batch_norm(2 * values, momentum)

    def forward(self, x: Tensor) -> Tensor:
        """B×inp×h×w to B×values×h×w."""
        qkv = self.qkv_bn(self.qkv(x))
        lines = qkv.permute(0, 3, 1, 2) if self.axis == "height" else qkv.permute(0, 2, 1, 3)
        batch, across, channels, length = lines.shape
        q, k, v = lines.reshape(-1, channels, length).split([self.keys, self.keys, self.values], 1)
        q, k, v = (part.unflatten(1, (HEADS, -1)) for part in (q, k, v))  # n×heads×depth×L
        rows = relative_rows(length, x.device)
        similarity = torch.cat(
            [
                q.transpose(2, 3) @ k,
                torch.einsum("nhdl,lmd->nhlm", q, self.query_table[rows]),
                torch.einsum("nhdm,lmd->nhlm", k, self.key_table[rows]),
            ],
            1,
        )
        logits = self.similarity_bn(similarity).unflatten(1, (3, HEADS)).sum(1)
        weights = logits.softmax(-1, dtype=torch.float32).to(v.dtype)
        retrieved = torch.cat(
            [v @ weights.transpose(2, 3), torch.einsum("nhlm,lmd->nhdl", weights, self.value_table[rows])], 1
        )
        out = self.output_bn(retrieved.flatten(1, 2)[..., None])[..., 0].unflatten(1, (2, self.values)).sum(1)
        out = out.view(batch, across, self.values, length)
        return out.permute(0, 2, 3, 1) if self.axis == "height" else out.permute(0, 2, 1, 3)


def relative_rows(length: int, device: torch.device) -> Tensor:
    """L×L int64: the table's row for every (query, key) of a line."""
    positions = torch.arange(length, device=device)
    distance = (positions - positions[:, None]).clamp(1 - MAX_SPAN, MAX_SPAN - 1)
    return distance + MAX_SPAN - 1


class AxialAttention2d(nn.Module):
    """Attention along the height, then along the width; a stride keeps every n-th row and column.

    Args:
        inp: channels in; as many come out as `values`.
        keys, values: see `AxialAttention`.
        stride: of rows after the first attention and of columns after the second.
        momentum: of the batch norms.
    """

    def __init__(self, inp: int, keys: int, values: int, *, stride: int = 1, momentum: float = 0.01) -> None:
        super().__init__()
        self.stride = stride
        self.height = AxialAttention(inp, keys, values, axis="height", momentum=momentum)
        self.width = AxialAttention(values, keys, values, axis="width", momentum=momentum)

    def forward(self, x: Tensor) -> Tensor:
        """B×inp×h×w to B×values×⌈h/stride⌉×⌈w/stride⌉."""
        x = self.height(x)[:, :, :: self.stride]
        return self.width(x)[..., :: self.stride]


class Block(nn.Module):
    """Residual block that starts with GELU on its input and ends without an activation.

        a = GELU(x);   y = shortcut(a) + drop(conv3(inner(conv1(a))))

    Args:
        inp: channels in.
        filters: of conv1; of the 3×3 convolution, or the attention's keys; of the output. Values are as many
            as conv1's.
        kind: `bottleneck` with a 3×3 convolution inside, or `axial` with attention.
        stride: of the inner part and of the shortcut.
        drop: rate of stochastic depth.
        padding: see `layers.Conv2d`.
        momentum: of the batch norms.
    """

    def __init__(
        self,
        inp: int,
        filters: Sequence[int],
        kind: Kind,
        *,
        stride: int = 1,
        drop: float = 0.0,
        padding: Padding = "symmetric",
        momentum: float = 0.01,
    ) -> None:
        super().__init__()
        first, second, out = filters
        self.conv1 = conv_norm(inp, first, momentum=momentum)
        self.conv2: ConvNorm | None = None
        self.attention: AxialAttention2d | None = None
        if kind == "bottleneck":
            self.conv2 = conv_norm(first, second, 3, stride=stride, padding=padding, momentum=momentum)
        else:
            self.attention = AxialAttention2d(first, second, first, stride=stride, momentum=momentum)
        self.conv3 = linear_norm(second if kind == "bottleneck" else first, out, momentum, zero=True)
        self.shortcut: ConvNorm | None = None
        if inp != out or stride > 1:
            self.shortcut = conv_norm(inp, out, 1, stride=stride, momentum=momentum, activation=None)
        self.drop = DropPath(drop)

    def forward(self, x: Tensor) -> Tensor:
        """B×inp×h×w to B×out×⌈h/stride⌉×⌈w/stride⌉."""
        x = F.gelu(x)
        y = self.conv1(x)
        if self.attention is not None:
            y = F.gelu(self.attention(y))
        elif self.conv2 is not None:
            y = self.conv2(y)
        return (x if self.shortcut is None else self.shortcut(x)) + self.drop(self.conv3(y))
