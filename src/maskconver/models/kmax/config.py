"""Everything that makes one kMaX-DeepLab differ from another."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ...config import InputConfig, MergeConfig
from ..layers import Padding

BACKBONES = (
    "resnet50",
    "max_s",
    "convnext_tiny",
    "convnext_small",
    "convnext_base",
    "mobilenetv3_small_100",
    "mobilenetv3_large_100",
)


def _input() -> InputConfig:
    return InputConfig(size=(641, 641), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def _merge() -> MergeConfig:
    return MergeConfig(
        rule="kmax",
        object_threshold=0.7,
        stuff_threshold=0.5,
        overlap_threshold=0.8,
        pixel_threshold=0.4,
        min_area=0.0,
    )


@dataclass
class KMaXConfig:
    """Architecture of a kMaX-DeepLab (kmax page §2); defaults are R50's.

    Attributes:
        backbone: one of `BACKBONES`.
        in_channels: channels of the image.
        padding: `symmetric` as the PyTorch code, `same` as TensorFlow; equal where a map's side is odd.
        bn_momentum: of all batch norms, PyTorch's sense.
        resnet_layout: `max_pool` as the PyTorch code; `stride` as DeepLab2, where the first stage strides
            instead of a max-pool and features are tapped before the activation. Weights fit both, but
            belong to one.
        gate: of MobileNetV3's squeeze-and-excitation; `sigmoid` as in DeepLab2.
        backbone_drop_path: stochastic depth of the backbone's last blocks (ConvNeXt and MaX-S).
        pixel_blocks: residual blocks of the pixel decoder's stages at strides 32, 16, 8 and 4.
        decoder_layers: k-means layers at strides 32, 16 and 8.
        drop_path: stochastic depth of the k-means layers.
        fifth_stage: one more stage on the stem, as for Cityscapes: `tensorflow` at the stem's own stride (2
            with ResNet, MaX-S and MobileNetV3), `pytorch` as the published R50 checkpoint has it (the
            max-pooled stem, before res2), or `none`.
        semantic: the auxiliary semantic head, of which only training knows: `aspp` at stride 4, `simple` at
            stride 32 (Cityscapes), or `none`.
        proposals: queries; every one gives a proposal.
        input: how an image is brought to the network.
        merge: how proposals become an answer; the thresholds for COCO (kmax page §7).
    """

    backbone: str = "resnet50"
    in_channels: int = 3
    padding: Padding = "symmetric"
    bn_momentum: float = 0.01
    resnet_layout: Literal["max_pool", "stride"] = "max_pool"
    gate: Literal["hard_sigmoid", "sigmoid"] = "hard_sigmoid"
    backbone_drop_path: float = 0.0
    pixel_blocks: tuple[int, int, int, int] = (1, 5, 1, 1)
    decoder_layers: tuple[int, int, int] = (2, 2, 2)
    drop_path: float = 0.2
    fifth_stage: Literal["none", "tensorflow", "pytorch"] = "none"
    semantic: Literal["none", "aspp", "simple"] = "aspp"
    proposals: int = 128
    input: InputConfig = field(default_factory=_input)
    merge: MergeConfig = field(default_factory=_merge)
