"""The prediction heads and the embedding MLP (reference page §3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import Conv2d, ConvNorm, batch_norm, depthwise, resize


class LayerNorms(nn.Module):
    """The batch norms of a head, named as in the reference: `dw.i` and `pw.i`."""

    def __init__(self, depthwise_channels: list[int], pointwise_channels: list[int], momentum: float) -> None:
        super().__init__()
        self.dw = nn.ModuleList(batch_norm(c, momentum) for c in depthwise_channels)
        self.pw = nn.ModuleList(batch_norm(c, momentum) for c in pointwise_channels)


class Head(nn.Module):
    """Low-level fusion, separable convolutions, 1×1 output without activation.

    Args:
        in_channels: channels of the decoder's output.
        low_level: channels of the backbone feature to fuse, or None to fuse nothing.
        filters: channels of the separable convolutions.
        out_channels: channels of the output.
        depth: number of separable convolutions.
        kernel: their depthwise kernel.
        fusion: `sum` or `concat`.
        low_level_filters: channels the backbone feature is projected to.
        bias: initial bias of the output.
        momentum: of the batch norms.
    """

    def __init__(
        self,
        in_channels: int,
        low_level: int | None,
        filters: int,
        out_channels: int,
        depth: int,
        kernel: int = 3,
        fusion: str = "sum",
        low_level_filters: int = 256,
        bias: float = 0.0,
        momentum: float = 0.01,
    ) -> None:
        super().__init__()
        self.fusion = fusion
        self.lowlevel = ConvNorm(low_level, low_level_filters, momentum=momentum) if low_level else None
        first = in_channels + low_level_filters if low_level and fusion == "concat" else in_channels
        inputs = [first] + [filters] * (depth - 1)
        depthwise_convs = [depthwise(c, kernel) for c in inputs]
        pointwise_convs = [Conv2d(c, filters, 1) for c in inputs]
        self.dw, self.pw = nn.ModuleList(depthwise_convs), nn.ModuleList(pointwise_convs)
        self.norm = LayerNorms(inputs, [filters] * depth, momentum)
        self.out = Conv2d(filters if depth else first, out_channels, 1, bias=True)
        for conv in depthwise_convs:
            nn.init.xavier_uniform_(conv.weight)
        for conv in [*pointwise_convs, *([self.lowlevel.conv] if self.lowlevel else [])]:
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        nn.init.trunc_normal_(self.out.weight, std=0.01, a=-0.02, b=0.02)
        assert self.out.bias is not None
        nn.init.constant_(self.out.bias, bias)

    def forward(self, decoded: Tensor, low_level: Tensor | None) -> Tensor:
        """B×in×h×w (and B×low×H×W to fuse) to B×out×H×W."""
        x = decoded
        if self.lowlevel is not None:
            assert low_level is not None
            fine = self.lowlevel(low_level)
            x = resize(x, fine.shape[-2:])
            x = x + fine if self.fusion == "sum" else torch.cat([x, fine], 1)
        for dw, dw_norm, pw, pw_norm in zip(self.dw, self.norm.dw, self.pw, self.norm.pw):
            x = F.relu(dw_norm(dw(x)))
            x = F.relu(pw_norm(pw(x)))
        out: Tensor = self.out(x)
        return out


class MLP(nn.Module):
    """Dense, LayerNorm, ReLU, dense: the mask embedding from a centre embedding × class embedding."""

    def __init__(self, dim: int, out: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, dim)
        self.ln = nn.LayerNorm(dim, eps=1e-6)
        self.fc2 = nn.Linear(dim, out)
        for layer in (self.fc1, self.fc2):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(…, dim) to (…, out)."""
        return self.fc2(F.relu(self.ln(self.fc1(x))))
