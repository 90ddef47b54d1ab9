"""MaX-S: the axial ResNet-50 of kMaX-DeepLab (MaX-DeepLab, arXiv 2012.00759)."""

from __future__ import annotations

from torch import Tensor, nn

from ..layers import Padding
from .axial import Block, conv_norm

STEM = 128


class MaXS(nn.Module):
    """Axial ResNet-50 with GELU, features before the activation.

    A stem of three 3×3 convolutions; two stages of bottlenecks; a third of one bottleneck and five axial
    blocks; a fourth of three axial blocks.

    Args:
        in_channels: channels of the image.
        padding: see `layers.Conv2d`.
        momentum: of the batch norms, in PyTorch's sense.
        drop_path: stochastic depth of the last stage's blocks after its first. Blocks that take stride 16
            before have three quarters of it, those that take a finer map have none.
        stem: the stem's output, at stride 2, is a feature too, as level 1.
    """

    def __init__(
        self,
        in_channels: int = 3,
        padding: Padding = "symmetric",
        *,
        momentum: float = 0.01,
        drop_path: float = 0.0,
        stem: bool = False,
    ) -> None:
        super().__init__()
        self.with_stem = stem
        self.stem = nn.Sequential(
            conv_norm(in_channels, STEM // 2, 3, stride=2, padding=padding, momentum=momentum),
            conv_norm(STEM // 2, STEM // 2, 3, momentum=momentum),
            conv_norm(STEM // 2, STEM, 3, momentum=momentum, activation=None),
        )
        conv, axial = "bottleneck", "axial"
        stages = (
            ((64, 64, 256), (conv,) * 3, 0.0),
            ((128, 128, 512), (conv,) * 4, 0.0),
            ((256, 256, 1024), (conv, *(axial,) * 5), 0.75 * drop_path),
            ((512, 512, 2048), (axial,) * 3, drop_path),
        )
        inp = STEM
        for level, (filters, kinds, drop) in enumerate(stages, 2):
            blocks = []
            for i, kind in enumerate(kinds):
                width, _, out = filters
                sizes = filters if kind == conv else (2 * width, width, out)
                rate = drop if i else (0.75 * drop_path if level == 5 else 0.0)
                blocks.append(
                    Block(
                        inp,
                        sizes,
                        kind,  # type: ignore[arg-type]
                        stride=1 if i else 2,
                        drop=rate,
                        padding=padding,
                        momentum=momentum,
                    )
                )
                inp = out
            self.add_module(f"stage{level}", nn.Sequential(*blocks))
        self.channels = {level: filters[-1] for level, (filters, _, _) in enumerate(stages, 2)}
        if stem:
            self.channels[1] = STEM

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        """Images B×C×H×W float to {level: B×C×⌈H/2^level⌉×⌈W/2^level⌉}, levels 2…5, 1 with `stem`."""
        x = self.stem(images)
        features: dict[int, Tensor] = {1: x} if self.with_stem else {}
        for level in range(2, 6):
            x = features[level] = self.get_submodule(f"stage{level}")(x)
        return features
