"""The pixel decoders by name: backbone features in, pyramid out."""

from __future__ import annotations

from torch import Tensor, nn

from ..decoders.aspp import ASPP
from ..decoders.convnext_unet import ConvNeXtUNet
from ..decoders.fpn import FPN, BiFPN
from .config import MultiScaleConfig


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
        self.aspp: ASPP | None = None
        if config.decoder == "convnext_unet":
            self.unet = ConvNeXtUNet(
                channels, config.unet_dim, config.unet_depths, config.unet_kernel, drop_rates
            )
            channels = self.unet.channels
        elif config.decoder == "aspp":
            top = max(channels)
            self.aspp = ASPP(channels[top], config.filters, momentum=config.bn_momentum)
            channels = {**channels, top: config.filters}
        if config.decoder == "bifpn":
            self.fpn: nn.Module = BiFPN(
                channels,
                config.levels,
                config.filters,
                config.bifpn_repeats,
                config.activation,
                config.bn_momentum,
            )
        else:
            self.fpn = FPN(
                channels,
                config.levels,
                config.filters,
                config.fusion,
                config.separable,
                config.decoder_kernel,
                config.decoder_norm,
                config.activation,
                config.bn_momentum,
            )

    def forward(self, features: dict[int, Tensor]) -> dict[int, Tensor]:
        """{level: B×C×h×w} to {level: B×filters×h×w} of the pyramid, finest first."""
        if self.unet is not None:
            features = self.unet(features)
        elif self.aspp is not None:
            top = max(features)
            features = {**features, top: self.aspp(features[top])}
        return self.fpn(features)
