"""The pixel decoder of kMaX-DeepLab: axial attention on coarse maps, bottlenecks on fine ones.

As in bytedance/kmax-deeplab.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import LayerNorm2d
from .axial import Block, linear_norm

CHANNELS = (512, 256, 128, 64, 32)
AXIAL_STAGES = 2


def resize_aligned(x: Tensor, size: Sequence[int], align: bool | None = None) -> Tensor:
    """Bilinear, corners aligned where the width of `x` is odd; B×C×h×w to B×C×`size`.

    The official code's rule, decided by the width alone: maps of odd sides come from images of 32k + 1
    pixels, whose corner pixels lie on one another in every map.

    Args:
        x: the map.
        size: (height, width) wanted.
        align: whether to align the corners, where the width of another map decides it.
    """
    if align is None:
        align = x.shape[-1] % 2 == 1
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=align)


class PixelDecoder(nn.Module):
    """Stages from coarse to fine; each takes the enlarged result of the one before and a backbone feature.

        f_i = LayerNorm(feature_i);   x_0 = f_0;   x_i = up(low(y_{i-1})) + high(f_i);   y_i = stage_i(x_i)

    `low` and `high` are GELU, 1×1 convolution and batch norm, or nothing where the width is right already.

    Args:
        inputs: channels of the backbone's features, coarsest first.
        channels: C of each stage, which gives 4C.
        blocks: residual blocks of each stage; the first two stages are axial.
        momentum: of the batch norms.
    """

    def __init__(
        self,
        inputs: Sequence[int],
        channels: Sequence[int] = CHANNELS,
        blocks: Sequence[int] = (1, 5, 1, 1, 1),
        *,
        momentum: float = 0.01,
    ) -> None:
        super().__init__()
        self.norms = nn.ModuleList(LayerNorm2d(n) for n in inputs)
        self.stages, self.low, self.high = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        self.channels: list[int] = []

        def project(inp: int, out: int) -> nn.Module:
            return linear_norm(inp, out, momentum) if inp != out else nn.Identity()

        for i, (inp, c, depth) in enumerate(zip(inputs, channels, blocks)):
            if i:
                self.low.append(project(self.channels[-1], c))
                self.high.append(project(inp, c))
                inp = c
            axial = i < AXIAL_STAGES
            stage = [
                Block(
                    4 * c if j else inp,
                    (2 * c if axial else c, c, 4 * c),
                    "axial" if axial else "bottleneck",
                    momentum=momentum,
                )
                for j in range(depth)
            ]
            self.stages.append(nn.Sequential(*stage))
            self.channels.append(4 * c)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """B×C×h×w backbone features, coarsest first, to B×4C×h×w, not activated, of every stage."""
        x = self.norms[0](features[0])
        outputs = [self.stages[0](x)]
        for norm, low, high, stage, feature in zip(
            self.norms[1:], self.low, self.high, self.stages[1:], features[1:]
        ):
            coarse, fine = _project(low, outputs[-1]), _project(high, norm(feature))
            outputs.append(stage(resize_aligned(coarse, fine.shape[-2:]) + fine))
        return outputs


def _project(layer: nn.Module, x: Tensor) -> Tensor:
    return x if isinstance(layer, nn.Identity) else layer(F.gelu(x))
