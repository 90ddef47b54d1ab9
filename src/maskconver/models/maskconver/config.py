"""Everything that makes one MaskConver model differ from another.

There are two configs and one network: a third of the fields belongs to one level or to a pyramid alone, and
`decoder` and `fusion` name other things in each.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

from ...core.config import InputConfig, PostprocessConfig
from ...errors import ConfigError
from ..backbones import OWN_BACKBONES
from ..backbones.timm import mean_and_std
from ..base import moved_to_training
from ..layers import Activation, Padding

C = TypeVar("C", "MaskConverConfig", "MultiScaleConfig")

ClassEmbedding = Literal["none", "multiply", "add"]
MASK_LEVEL, FINEST = 2, 3  # stride 4 of the masks, stride 8 of the finest feature the decoders take
LEVEL_RANGES_640 = ((0.0, 64.0), (40.0, 128.0), (80.0, 256.0), (160.0, 512.0), (320.0, 1e7))
LEVEL_RANGES_1280 = ((0.0, 100.0), (100.0, 200.0), (200.0, 400.0), (400.0, 800.0), (800.0, 1.25e7))


def with_timms_input(config: C, before: C) -> C:
    """A changed config with the mean and std of its new backbone, if it is timm's and no others were given.

    Args:
        config: after the change.
        before: before it.
    """
    new, old = config.input, before.input.for_channels(config.in_channels)
    if config.backbone in (before.backbone, *OWN_BACKBONES) or (new.mean, new.std) != (old.mean, old.std):
        return config
    if (theirs := mean_and_std(config.backbone)) is None:
        return config
    own = replace(new, mean=theirs[0], std=theirs[1]).for_channels(config.in_channels)
    return replace(config, input=own)


@dataclass
class MaskConverConfig:
    """Architecture of a single-scale MaskConver.

    Of arXiv 2312.06052 and tensorflow/models, official/projects/maskconver.

    Attributes:
        backbone: `mobilenet_mh`, `spinenet49`, `spinenet49plus` (reconstructions), or the name of any network
            of timm that gives features. Mean and std of `input` follow timm's, unless you give others.
        in_channels: channels of the image; `input` follows.
        padding: `same` as the reference, `symmetric` as PyTorch networks do; weights are not interchangeable.
            Networks of timm other than MobileNetV3 pad as timm does.
        bn_momentum: momentum of all batch norms, as PyTorch defines it.
        block13_dilation: dilation of the depthwise convolution in block 13 of `mobilenet_mh`: 2 as in the
            published files, 1 as in MOSAIC, whose weights fit both.
        decoder: `aspp` as published; `aspp_fpn` adds a top-down path to `level` (heads then fuse nothing).
        filters: channels of decoder and heads.
        aspp_rates: dilations of the ASPP.
        aspp_pool_window: (height, width) in cells of the ASPP's pooling branch; None pools globally.
        level: log2 of the stride of heatmap, embeddings and masks (3: stride 8).
        fusion: how the backbone's feature of `level` is added to the input of the heads: `sum`, `concat` or
            `none`.
        low_level_filters: channels to which that feature is projected; must equal `filters` for `sum`.
        separable: ASPP and heads of separable convolutions; otherwise full ones, and a 3×3 output.
        activation: activation of ASPP and heads (and of the SpineNets).
        head_kernel: kernel of the heads (3 as in the paper's counts, 7 in the published files).
        head_depths: convolutions of the class, embedding and mask head.
        class_embedding: how a centre embedding learns its class: `multiply` (mobile), `add`, `none`.
        embedding_dim: channels of embeddings and mask features.
        position: add to each mask a quadratic form in the offset from its centre, which is predicted with the
            embedding. It separates objects that look the same and lie side by side (ours, off in published
            models; the idea of semi-convolutional embeddings, Novotny et al., ECCV 2018).
        stuff: how stuff is found: by `centers`, as published, or by a `semantic` head that classifies every
            cell (ours); things stay centres. The semantic head learns from every labelled pixel, which helps
            short trainings on few images.
        agreement: a, 0…1. With a semantic head, the score s of a thing becomes s^(1-a)·q^a, where q is the
            probability that the head gives to its class, averaged over its mask (ours; 0 leaves the scores).
        proposals: maximum number of masks per image; may be changed at inference.
        peak_kernel: side of the window, in cells, in which a peak is the largest value.
        input: how an image becomes a network input.
        postprocess: how proposals become segments.
    """

    backbone: str = "mobilenet_mh"
    in_channels: int = 3
    padding: Padding = "same"
    bn_momentum: float = 0.01
    block13_dilation: int = 2
    decoder: Literal["aspp", "aspp_fpn"] = "aspp"
    filters: int = 256
    aspp_rates: tuple[int, ...] = (6, 12, 18)
    aspp_pool_window: tuple[int, int] | None = None
    level: int = 3
    fusion: Literal["sum", "concat", "none"] = "sum"
    low_level_filters: int = 256
    separable: bool = True
    activation: Activation = "relu"
    head_kernel: int = 3
    head_depths: tuple[int, int, int] = (2, 2, 2)
    class_embedding: ClassEmbedding = "multiply"
    embedding_dim: int = 256
    position: bool = False
    stuff: Literal["centers", "semantic"] = "centers"
    agreement: float = 0.0
    proposals: int = 50
    peak_kernel: int = 3
    input: InputConfig = field(default_factory=InputConfig)
    postprocess: PostprocessConfig = field(default_factory=PostprocessConfig)

    def __post_init__(self) -> None:
        self.input = self.input.for_channels(self.in_channels)
        if not 0 <= self.agreement <= 1:
            raise ConfigError(f"agreement must lie between 0 and 1, not {self.agreement}")

    following = with_timms_input
    # What a `MultiScaleConfig` has as fields, or the other way round:
    level_ranges = None  # the one level answers for every segment
    frozen_bn = False
    mlp_hidden = None  # as many as `embedding_dim`

    @property
    def levels(self) -> tuple[int, ...]:
        """log2 of the strides of the heatmaps: one."""
        return (self.level,)

    @property
    def mask_level(self) -> int:
        """log2 of the stride of the masks."""
        return self.level


@dataclass
class MultiScaleTraining:
    """What of a multi-scale network only training knows.

    Attributes:
        drop_path: largest rate of stochastic depth in backbone and UNet, 0…1, rising from stage to stage.
    """

    drop_path: float = 0.0


# Values of `loss.embedding_at` by the names they had when it was called `loss.centers`.
_OLD_PLACES = {"truth": "center", "predicted": "surest"}


def upgraded(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe by today's names: stochastic depth was once a part of the model; `recipe` is left as it is."""
    loss = recipe.get("loss")
    if isinstance(loss, dict) and "centers" in loss:
        kept = {name: value for name, value in loss.items() if name != "centers"}
        place = _OLD_PLACES.get(loss["centers"], loss["centers"])
        recipe = {**recipe, "loss": {"embedding_at": place, **kept}}
    return moved_to_training(recipe, MultiScaleTraining)


@dataclass
class MultiScaleConfig:
    """Architecture of a multi-scale MaskConver (arXiv 2312.06052); defaults are R50-UNet's.

    Attributes:
        backbone: `resnet50`, or the name of any network of timm that gives features at strides 8, 16 and 32;
            `timm/resnet50` is timm's. Mean and std of `input` follow timm's, unless you give others.
        in_channels: channels of the image; `input` follows.
        padding: `same` as the reference, `symmetric` for weights of torchvision and timm.
        bn_momentum: momentum of all batch norms, as PyTorch defines it.
        frozen_bn: the backbone's batch norms stay as they are, statistics and weights; for a backbone that
            starts from trained weights, as in the published R50-UNet recipe.
        activation: everywhere; `gelu` is exact but in heads and SE, where it is the tanh approximation.
        backbone_activation: of `resnet50`; `relu` for weights of torchvision.
        decoder: `convnext_unet` refines levels 5, 4, 3 before the FPN; `fpn` is the FPN alone; `bifpn` stands
            in its place; `aspp` widens the view of the coarsest level before the FPN.
        unet_dim: channels of the ConvNeXt-UNet; one number, or one each for levels 5, 4 and 3.
        unet_depths: blocks of the ConvNeXt-UNet at levels 5, 4 and 3.
        unet_kernel: depthwise kernel of the ConvNeXt-UNet.
        bifpn_repeats: how often the BiFPN's paths are run.
        filters: channels of pyramid and heads.
        fusion: of the FPN's top-down path: `concat` or `sum`.
        separable: FPN and heads of separable convolutions; otherwise full ones.
        decoder_kernel: of the FPN's output convolutions.
        decoder_norm: of the pyramid's levels: `layer` or `batch`.
        head_kernel: of the heads' convolutions.
        head_depths: convolutions of the class, embedding and mask head.
        shared_heads: one class and one embedding head for all levels, with norms of each level's own;
            otherwise every level has its own heads.
        mask_fusion: how the pyramid becomes the mask head's input at stride 4: `sum` of resized levels, or
            `panoptic_fpn` with convolutions on the way.
        class_embedding: how a centre embedding learns its class: `add`, `multiply`, `none`.
        embedding_dim: channels of embeddings and mask features.
        mlp_hidden: hidden channels of the mask embedding's MLP.
        levels: of the pyramid, log2 of the strides, finest first.
        level_ranges: for each level, the smallest and largest half diagonal of its segments in pixels of the
            network input, both inclusive; where ranges overlap, a segment is on two levels.
        proposals: maximum number of masks per image; may be changed at inference.
        peak_kernel: side of the window, in cells, in which a peak is the largest value.
        input: how an image becomes a network input.
        postprocess: how proposals become segments.
    """

    backbone: str = "resnet50"
    in_channels: int = 3
    padding: Padding = "same"
    bn_momentum: float = 0.01
    frozen_bn: bool = False
    activation: Activation = "gelu"
    backbone_activation: Activation = "gelu"
    decoder: Literal["convnext_unet", "fpn", "bifpn", "aspp"] = "convnext_unet"
    unet_dim: int | tuple[int, int, int] = 384
    unet_depths: tuple[int, int, int] = (18, 1, 1)
    unet_kernel: int = 7
    bifpn_repeats: int = 3
    filters: int = 256
    fusion: Literal["sum", "concat"] = "concat"
    separable: bool = True
    decoder_kernel: int = 7
    decoder_norm: Literal["layer", "batch"] = "layer"
    head_kernel: int = 7
    head_depths: tuple[int, int, int] = (4, 4, 4)
    shared_heads: bool = True
    mask_fusion: Literal["sum", "panoptic_fpn"] = "sum"
    class_embedding: ClassEmbedding = "add"
    embedding_dim: int = 256
    mlp_hidden: int = 1024
    levels: tuple[int, ...] = (3, 4, 5, 6, 7)
    level_ranges: tuple[tuple[float, float], ...] = LEVEL_RANGES_640
    proposals: int = 256
    peak_kernel: int = 3
    input: InputConfig = field(default_factory=InputConfig)
    postprocess: PostprocessConfig = field(default_factory=PostprocessConfig)

    def __post_init__(self) -> None:
        self.input = self.input.for_channels(self.in_channels)

    following = with_timms_input
    position, stuff, agreement = False, "centers", 0.0  # see `MaskConverConfig`

    @property
    def mask_level(self) -> int:
        """log2 of the stride of the masks."""
        return MASK_LEVEL
