"""What the two configs differ in: backbone features to a pyramid, and the heads on it.

A single-scale model is a pyramid of one level.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from ...errors import ConfigError
from ..backbones import create_backbone, require_levels
from ..decoders.aspp import ASPP, ASPPFPN
from ..decoders.convnext_unet import ConvNeXtUNet
from ..decoders.fpn import FPN, BiFPN
from ..layers import batch_norm
from .config import FINEST, MaskConverConfig, MultiScaleConfig
from .heads import Detail, Head, PanopticFPNFusion, SumFusion


class MakeHead(Protocol):
    """Makes a head with so many output channels, of so many convolutions, with an initial bias."""

    def __call__(self, out: int, depth: int, bias: float = 0.0) -> nn.Module: ...


@dataclass(frozen=True)
class Parts:
    """The parts of a model, and how its heads are made.

    Attributes:
        backbone: images to {level: B×C×h×w}.
        decoder: those to {level: B×filters×h×w} of the pyramid, finest first.
        heads: makes the class and the embedding head, of all levels.
        mask_fusion: makes what brings the pyramid to the mask head; None takes its only level as it is.
        mask_head: makes the mask head.
        detail: level of the backbone's feature that every head takes in; None for none.
        multiple: the sides of images are padded to its multiples.
    """

    backbone: nn.Module
    decoder: nn.Module
    heads: MakeHead
    mask_fusion: Callable[[], nn.Module | None]
    mask_head: MakeHead
    detail: int | None = None
    multiple: int = 1


class TopASPP(ASPP):
    """An ASPP on the coarsest of several features."""

    def forward(self, features: dict[int, Tensor]) -> dict[int, Tensor]:  # type: ignore[override]
        """{level: B×C×h×w} to B×filters×h×w of the largest level."""
        top = max(features)
        return {top: super().forward(features[top])}


def single_scale(config: MaskConverConfig) -> Parts:
    """The parts of a model of one level.

    Raises:
        ConfigError: a level without a feature, or widths that cannot be added.
    """
    momentum = config.bn_momentum
    if config.decoder == "aspp" and config.fusion == "sum" and config.low_level_filters != config.filters:
        raise ConfigError(
            f"fusion=sum adds {config.low_level_filters} low-level filters to {config.filters}; "
            "make them equal or use concat"
        )
    backbone = create_backbone(
        config.backbone,
        config.in_channels,
        config.padding,
        momentum=momentum,
        activation=config.activation,
        block13_dilation=config.block13_dilation,
    )
    channels: dict[int, int] = backbone.channels  # type: ignore[assignment]
    top = max(channels)
    require_levels(config.backbone, channels, [config.level])
    if config.decoder == "aspp" and config.fusion == "none" and config.level != top:
        raise ConfigError(
            f"with fusion=none the maps are those of the backbone's last level: give level={top}"
        )
    detail: Detail | None = None
    if config.decoder == "aspp":
        decoder: nn.Module = TopASPP(
            channels[top],
            config.filters,
            config.aspp_rates,
            pool_window=config.aspp_pool_window,
            momentum=momentum,
            separable=config.separable,
            activation=config.activation,
        )
        if config.fusion != "none":
            detail = Detail(channels[config.level], config.fusion, config.low_level_filters, momentum)
    else:
        decoder = ASPPFPN(channels, config.filters, config.level, momentum=momentum)

    def head(out: int, depth: int, bias: float = 0.0) -> Head:
        return Head(
            config.filters,
            config.filters,
            out,
            depth=depth,
            kernel=config.head_kernel,
            separable=config.separable,
            norm=lambda width: batch_norm(width, momentum),
            activation=config.activation,
            detail=detail,
            bias=bias,
        )

    multiple: int = getattr(backbone, "multiple", 1)
    return Parts(backbone, decoder, head, lambda: None, head, config.level if detail else None, multiple)


def multi_scale(config: MultiScaleConfig, drop_path: float = 0.0) -> Parts:
    """The parts of a model of several levels, with masks at stride 4.

    Args:
        config: the architecture.
        drop_path: see `MultiScaleTraining`.

    Raises:
        ConfigError: levels that no pyramid can have, or another number of ranges.
    """
    if len(config.level_ranges) != len(config.levels):
        raise ConfigError(
            f"{len(config.levels)} levels but {len(config.level_ranges)} level_ranges; give one per level"
        )
    if list(config.levels) != list(range(config.levels[0], config.levels[0] + len(config.levels))):
        raise ConfigError(f"levels {config.levels} have gaps; give them finest first, as in 3, 4, 5")
    if not FINEST <= config.levels[0] <= 5:
        raise ConfigError(f"the finest level is {config.levels[0]}; it can be {FINEST}, 4 or 5")
    # Stochastic depth rises over res2…res5 and the UNet's levels 5, 4, 3.
    rates = tuple(drop_path * (i + 2) / 8 for i in range(7))
    backbone = create_backbone(
        config.backbone,
        config.in_channels,
        config.padding,
        momentum=config.bn_momentum,
        output_stride=32,
        activation=config.backbone_activation,
        drop_rates=rates[:4],
    )
    channels: dict[int, int] = backbone.channels  # type: ignore[assignment]
    require_levels(config.backbone, channels, (3, 4, 5))
    decoder = PixelDecoder(config, {n: channels[n] for n in (3, 4, 5)}, rates[4:])

    def head(out: int, depth: int, bias: float = 0.0, levels: tuple[int, ...] = ()) -> Head:
        return Head(
            config.filters,
            config.filters,
            out,
            depth=depth,
            kernel=config.head_kernel,
            separable=config.separable,
            activation=config.activation,
            levels=levels,
            bias=bias,
        )

    def heads(out: int, depth: int, bias: float = 0.0) -> nn.Module:
        if config.shared_heads:
            return head(out, depth, bias, config.levels)
        return nn.ModuleDict({str(n): head(out, depth, bias, (n,)) for n in config.levels})

    def mask_fusion() -> nn.Module:
        if config.mask_fusion == "sum":
            return SumFusion()
        return PanopticFPNFusion(
            config.filters,
            config.levels,
            config.filters,
            target=config.mask_level,
            activation=config.activation,
        )

    return Parts(backbone, decoder, heads, mask_fusion, head, multiple=32)


class PixelDecoder(nn.Module):
    """Levels 3, 4, 5 of a backbone to a pyramid: ConvNeXt-UNet or ASPP, then FPN; FPN alone; BiFPN.

    Args:
        config: names the decoder and its sizes.
        channels: of the backbone's features by level.
        drop_rates: stochastic depth of the UNet's levels, coarsest first.
    """

    def __init__(
        self, config: MultiScaleConfig, channels: dict[int, int], drop_rates: tuple[float, ...]
    ) -> None:
        super().__init__()
        self.unet: ConvNeXtUNet | None = None
        self.aspp: TopASPP | None = None
        if config.decoder == "convnext_unet":
            self.unet = ConvNeXtUNet(
                channels,
                config.unet_dim,
                config.unet_depths,
                kernel=config.unet_kernel,
                drop_rates=drop_rates,
            )
            channels = self.unet.channels
        elif config.decoder == "aspp":
            top = max(channels)
            self.aspp = TopASPP(channels[top], config.filters, momentum=config.bn_momentum)
            channels = {**channels, top: config.filters}
        if config.decoder == "bifpn":
            self.fpn: nn.Module = BiFPN(
                channels,
                config.levels,
                config.filters,
                repeats=config.bifpn_repeats,
                activation=config.activation,
                momentum=config.bn_momentum,
            )
        else:
            self.fpn = FPN(
                channels,
                config.levels,
                config.filters,
                fusion=config.fusion,
                separable=config.separable,
                kernel=config.decoder_kernel,
                norm=config.decoder_norm,
                activation=config.activation,
                momentum=config.bn_momentum,
            )

    def forward(self, features: dict[int, Tensor]) -> dict[int, Tensor]:
        """{level: B×C×h×w} to {level: B×filters×h×w} of the pyramid, finest first."""
        if self.unet is not None:
            features = self.unet(features)
        elif self.aspp is not None:
            features = {**features, **self.aspp(features)}
        return self.fpn(features)
