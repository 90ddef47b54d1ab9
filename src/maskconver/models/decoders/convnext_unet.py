"""The ConvNeXt-UNet pixel decoder with squeeze-and-excitation (MaskConver, arXiv 2312.06052)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import (
    LN_EPS,
    Conv2d,
    DropPath,
    LayerNorm2d,
    depthwise,
    gelu_tanh,
    kaiming_fan_in,
    recomputed,
    upsample2,
    variance_scaling_,
)

EXPANSION, SE_RATIO, LAYER_SCALE = 4, 1 / 16, 1e-6


class ConvNeXtBlock(nn.Module):
    """Depthwise k×k → LayerNorm → C→4C → GELU → SE → 4C→C → layer scale → stochastic depth → + input.

    The first GELU is exact, the one inside the SE its tanh approximation, as in the reference.

    Args:
        channels: C, in and out.
        kernel: of the depthwise convolution, which has a bias.
        drop: rate of stochastic depth.
    """

    def __init__(self, channels: int, kernel: int = 7, drop: float = 0.0) -> None:
        super().__init__()
        wide = channels * EXPANSION
        reduced = max(int(wide * SE_RATIO), 1)
        self.dwconv = depthwise(channels, kernel, bias=True)
        self.ln = nn.LayerNorm(channels, eps=LN_EPS)
        self.fc1, self.fc2 = nn.Linear(channels, wide), nn.Linear(wide, channels)
        self.se = nn.ModuleDict({"reduce": nn.Linear(wide, reduced), "expand": nn.Linear(reduced, wide)})
        self.layer_scale = nn.Parameter(torch.full((channels,), LAYER_SCALE))
        self.drop = DropPath(drop)
        for layer in (self.dwconv, self.fc1, self.fc2):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        for gate in self.se.values():
            variance_scaling_(gate.weight, gate.in_features)  # type: ignore[arg-type]
            nn.init.zeros_(gate.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """B×C×h×w to the same."""
        y = self.fc1(self.ln(self.dwconv(x).permute(0, 2, 3, 1)))
        y = recomputed(lambda wide: self.fc2(self.excite(F.gelu(wide))), y)
        y = self.drop(y * self.layer_scale)
        return x + y.permute(0, 3, 1, 2)

    def excite(self, x: Tensor) -> Tensor:
        """B×h×w×4C times its squeeze-and-excitation gates."""
        gates = self.se["expand"](gelu_tanh(self.se["reduce"](x.mean((1, 2)))))
        return x * gates.sigmoid()[:, None, None]


class Project(nn.Module):
    """1×1 without bias, then LayerNorm."""

    def __init__(self, inp: int, out: int) -> None:
        super().__init__()
        self.conv, self.ln = Conv2d(inp, out, 1), LayerNorm2d(out)
        variance_scaling_(self.conv.weight, kaiming_fan_in(self.conv))

    def forward(self, x: Tensor) -> Tensor:
        return self.ln(self.conv(x))


class UNetLevel(nn.Module):
    """Projected backbone feature + the coarser level's output twice as large, then blocks, then GELU."""

    def __init__(
        self, inp: int, dim: int, depth: int, *, kernel: int, drop: float, coarse: int | None
    ) -> None:
        super().__init__()
        self.lateral = Project(inp, dim)
        self.up = None if coarse is None else Project(coarse, dim)
        self.blocks = nn.Sequential(*(ConvNeXtBlock(dim, kernel, drop) for _ in range(depth)))

    def forward(self, fine: Tensor, coarse: Tensor | None) -> Tensor:
        x = self.lateral(fine)
        if self.up is not None:
            assert coarse is not None
            x = x + upsample2(self.up(coarse), x)
        return F.gelu(self.blocks(x))


class ConvNeXtUNet(nn.Sequential):
    """Levels 5, 4 and 3 refined from coarse to fine.

    Args:
        channels: of the backbone's features by level; the three coarsest are refined.
        dim: channels of the refined levels; one number, or one for each level, coarsest first.
        depths: blocks of each level, coarsest first.
        kernel: of the depthwise convolutions.
        drop_rates: stochastic depth of each level.
    """

    def __init__(
        self,
        channels: dict[int, int],
        dim: int | tuple[int, ...] = 384,
        depths: tuple[int, ...] = (18, 1, 1),
        *,
        kernel: int = 7,
        drop_rates: tuple[float, ...] = (0.0, 0.0, 0.0),
    ) -> None:
        self.levels = sorted(channels, reverse=True)[: len(depths)]
        dims = (dim,) * len(depths) if isinstance(dim, int) else dim
        parts = zip(self.levels, dims, depths, drop_rates, (None, *dims[:-1]), strict=True)
        super().__init__(
            *(
                UNetLevel(channels[level], own, depth, kernel=kernel, drop=drop, coarse=coarse)
                for level, own, depth, drop, coarse in parts
            )
        )
        self.channels = {**channels, **dict(zip(self.levels, dims))}

    def forward(self, features: dict[int, Tensor]) -> dict[int, Tensor]:
        """{level: B×C×h×w} with the refined levels B×dim×h×w in place of the backbone's."""
        refined, x = dict(features), None
        for level, step in zip(self.levels, self):
            x = refined[level] = step(features[level], x)
        return refined
