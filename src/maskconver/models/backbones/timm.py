"""Backbones of timm as feature pyramids."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import ConfigError, first_line
from ..layers import BN_EPS, Padding

PREFIX = "timm/"
PADDED = ("mobilenetv3_small_100", "mobilenetv3_large_100")  # whose padding is ours to choose
CEILS = ("EfficientNetFeatures", "MobileNetV3Features")  # of timm: `⌈n / stride⌉` positions, whatever n


def mean_and_std(name: str) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """What timm's weights of that name were trained with, of RGB in 0…1; None where timm does not say.

    Raises:
        ConfigError: a tag that the network does not have.
    """
    import timm

    try:
        config = timm.get_pretrained_cfg(name.removeprefix(PREFIX))
    except RuntimeError as error:
        raise ConfigError(f'no backbone "{name}": {first_line(error)}') from error
    return (config.mean, config.std) if config is not None else None


class TimmFeatures(nn.Module):
    """Any network of timm that gives features, by level (log2 of the stride).

    Strides and channels are timm's `feature_info`.

    Args:
        name: timm's model name, e.g. `mobilenetv4_conv_small`, also with a tag, or after `timm/`.
        in_channels: channels of the image.
        output_stride: 16 or 32; below 32 the last stages are dilated instead of strided, where the network
            can be; the others keep 32.
        padding: `same` pads the two MobileNetV3 of `PADDED` as TensorFlow does; all others pad as timm does.
        momentum: of the batch norms, in PyTorch's sense.
        drop_path: stochastic depth of the last block.

    Attributes:
        levels: of the features, finest first; of several of one stride the deepest is the level's.
        channels: by level.
        multiple: images' sides must be multiples of this.

    Raises:
        ConfigError: no such network, or one without features of several sizes or for one size of image only.
    """

    def __init__(
        self,
        name: str,
        in_channels: int = 3,
        output_stride: int = 16,
        *,
        padding: Padding = "same",
        momentum: float = 0.01,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.name = name = name.removeprefix(PREFIX)
        own = {"pad_type": "same"} if name in PADDED and padding == "same" else {}
        self.net = _features(
            name, output_stride, in_chans=in_channels, drop_path_rate=drop_path or None, **own
        )
        for module in self.net.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.momentum = momentum
        info: Any = self.net.feature_info
        self.levels = [int(stride).bit_length() - 1 for stride in info.reduction()]
        self.channels: dict[int, int] = dict(zip(self.levels, info.channels()))
        self.last = str(getattr(self.net, "output_fmt", "NCHW")).endswith("NHWC")
        self.multiple = 1 if type(self.net).__name__ in CEILS else 32
        if self.multiple > 1:
            self._try(in_channels)

    @torch.no_grad()
    def _try(self, in_channels: int) -> None:
        """Refuses transformers whose images must have one size."""
        training = self.net.training
        try:
            self.net.eval()(torch.zeros(1, in_channels, 64, 96))
        except Exception as error:  # whatever a network of others says
            raise ConfigError(
                f'the backbone "{self.name}" takes images of one size only ({first_line(error)}); {_OTHERS}'
            ) from error
        self.net.train(training)

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        """Images B×C×H×W float to {level: B×channels[level]×H/2^level×W/2^level}."""
        features: list[Tensor] = self.net(images)
        if self.last:
            features = [x.permute(0, 3, 1, 2) for x in features]
        return dict(zip(self.levels, features))


_OTHERS = "take a convolutional one, such as mobilenetv4_conv_small or resnet18"


def _features(name: str, output_stride: int, **options: Any) -> Any:
    """Timm's network of that name as a feature extractor."""
    import timm

    kinds: list[dict[str, Any]] = [{"output_stride": output_stride}] if output_stride < 32 else []
    for dilated in (*kinds, {}):
        try:
            return timm.create_model(name, pretrained=False, features_only=True, **dilated, **options)
        except Exception as error:  # also of a network that cannot be dilated
            if dilated:
                continue
            raise ConfigError(
                f'timm gives no features of "{name}" ({first_line(error)}); {_OTHERS}'
            ) from error
    raise AssertionError


SIZES = {
    "convnext_tiny": ((3, 3, 9, 3), (96, 192, 384, 768)),
    "convnext_small": ((3, 3, 27, 3), (96, 192, 384, 768)),
    "convnext_base": ((3, 3, 27, 3), (128, 256, 512, 1024)),
}


class PaddedConvNeXt(nn.Module):
    """A ConvNeXt whose features have `ceil(n / stride)` positions, raw stage outputs without a norm.

    Zeros: 1 above and left, 2 below and right of the image; 1 below and right of what every later stage
    takes, before its layer norm.

    Args:
        depths, dims: blocks and channels of the four stages.
        in_channels: channels of the image.
        drop_path: stochastic depth of the last block, rising linearly from 0.
        stem: the stem's output, at stride 4, is a feature too, as level 1.
    """

    def __init__(
        self,
        depths: tuple[int, ...],
        dims: tuple[int, ...],
        in_channels: int = 3,
        *,
        drop_path: float = 0.0,
        stem: bool = False,
    ) -> None:
        super().__init__()
        from timm.models.convnext import ConvNeXt

        net: Any = ConvNeXt(
            in_chans=in_channels, num_classes=0, depths=depths, dims=dims, drop_path_rate=drop_path
        )
        self.net: Any = nn.ModuleDict({"stem": net.stem, "stages": net.stages})
        self.stem = stem
        self.channels = dict(enumerate(dims, 2))
        if stem:
            self.channels[1] = dims[0]

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        """Images B×C×H×W float to {level: B×dim×⌈H/2^level⌉×⌈W/2^level⌉}, levels 2…5, 1 with `stem`."""
        x = self.net["stem"](F.pad(images, (1, 2, 1, 2)))
        features: dict[int, Tensor] = {1: x} if self.stem else {}
        for level, stage in enumerate(self.net["stages"], 2):
            if level > 2:
                x = stage.downsample(F.pad(x, (0, 1, 0, 1)))
            x = features[level] = stage.blocks(x)
        return features


# The last inverted-bottleneck block of each resolution, as (group, position in it) of timm's blocks.
ENDPOINTS = {
    "mobilenetv3_small_100": {2: (0, 0), 3: (1, 1), 4: (3, 1)},
    "mobilenetv3_large_100": {1: (0, 0), 2: (1, 1), 3: (2, 2), 4: (4, 1)},
}
CHANNELS = {
    "mobilenetv3_small_100": {1: 16, 2: 16, 3: 88, 4: 144, 5: 576},
    "mobilenetv3_large_100": {1: 16, 2: 72, 3: 120, 4: 672, 5: 960},
}
Gate = Literal["hard_sigmoid", "sigmoid"]


class ExpandedMobileNetV3(nn.Module):
    """A MobileNetV3 whose features are the wide depthwise outputs inside its blocks.

    The feature of a stride is, of its last block, the depthwise convolution's output after norm and
    activation and before squeeze-and-excitation; at stride 32 it is the last 1×1 convolution's.

    Args:
        name: `mobilenetv3_small_100` or `mobilenetv3_large_100`, timm's names.
        in_channels: channels of the image.
        padding: see `layers.Conv2d`.
        momentum: of the batch norms, in PyTorch's sense.
        gate: of squeeze-and-excitation: `hard_sigmoid` as in the paper and its ImageNet weights, `sigmoid`
            as in DeepLab2.
        eps: of the batch norms.
        stem: the feature at stride 2 is given too, as level 1.
    """

    def __init__(
        self,
        name: str,
        in_channels: int = 3,
        padding: Padding = "symmetric",
        *,
        momentum: float = 0.01,
        gate: Gate = "hard_sigmoid",
        eps: float = BN_EPS,
        stem: bool = False,
    ) -> None:
        super().__init__()
        import timm

        net: Any = timm.create_model(
            name,
            pretrained=False,
            in_chans=in_channels,
            num_classes=0,
            bn_momentum=momentum,
            bn_eps=eps,
            pad_type="same" if padding == "same" else "",
        )
        self.net: Any = nn.ModuleDict({k: getattr(net, k) for k in ("conv_stem", "bn1", "blocks")})
        if gate == "sigmoid":
            for module in self.net.modules():
                if hasattr(module, "gate"):
                    module.gate = nn.Sigmoid()
        self.stem = stem
        self.endpoints = {place: level for level, place in ENDPOINTS[name].items()}
        self.channels = {k: v for k, v in CHANNELS[name].items() if k > 1 or stem}

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        """Images B×C×H×W float to {level: B×channels×H/2^level×W/2^level}, levels 2…5, 1 with `stem`."""
        x = self.net["bn1"](self.net["conv_stem"](images))
        features: dict[int, Tensor] = {1: x}
        for i, group in enumerate(self.net["blocks"]):
            for j, block in enumerate(group):
                if (level := self.endpoints.get((i, j))) is not None:
                    x, features[level] = _open_block(block, x)
                else:
                    x = block(x)
        features[5] = x
        return {level: features[level] for level in self.channels}


def _open_block(block: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """A block's output, and what its depthwise convolution gives."""
    if hasattr(block, "conv_pwl"):
        wide = block.bn2(block.conv_dw(block.bn1(block.conv_pw(x))))
        y = block.bn3(block.conv_pwl(block.se(wide)))
    else:  # the first block, which has no expansion
        wide = block.bn1(block.conv_dw(x))
        y = block.bn2(block.conv_pw(block.se(wide)))
    return (block.drop_path(y) + x if block.has_skip else y), wide
