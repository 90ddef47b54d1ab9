"""Everything that makes one MaskConver model differ from another."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ...config import InputConfig, MergeConfig


@dataclass
class MaskConverConfig:
    """Architecture of a single-scale MaskConver (reference page §2–3).

    Attributes:
        backbone: `mobilenet_mh`, or a timm name (`mobilenetv3_large_100`, `mobilenetv3_small_100`).
        in_channels: channels of the image.
        padding: `same` as the reference, `symmetric` as PyTorch networks do; weights are not interchangeable.
        bn_momentum: of all batch norms, PyTorch's sense.
        decoder: `aspp` as published; `aspp_fpn` adds a top-down path to `level` (heads then fuse nothing).
        filters: channels of decoder and heads.
        aspp_pool_window: (height, width) in cells of the ASPP's pooling branch; None pools globally.
        level: log2 of the stride of heatmap, embeddings and masks (3: stride 8).
        fusion: how the heads take in the backbone's feature of `level`: `sum` or `concat`.
        low_level_filters: channels that feature is projected to; must equal `filters` for `sum`.
        head_kernel: depthwise kernel of the heads (3 as in the paper's counts, 7 in the published files).
        head_depths: separable convolutions of the class, embedding and mask head.
        embedding_dim: channels of embeddings and mask features.
        position: masks also get a quadratic form in the offset from their centre, predicted with the
            embedding, so that equal-looking objects side by side are told apart by place (ours, off in
            published models; the idea of semi-convolutional embeddings, Novotny et al., ECCV 2018).
        proposals: how many peaks become proposals; may be changed at inference.
        peak_kernel: window in cells in which a peak is the largest.
        input: how an image is brought to the network.
        merge: how proposals become an answer.
    """

    backbone: str = "mobilenet_mh"
    in_channels: int = 3
    padding: Literal["same", "symmetric"] = "same"
    bn_momentum: float = 0.01
    decoder: Literal["aspp", "aspp_fpn"] = "aspp"
    filters: int = 256
    aspp_pool_window: tuple[int, int] | None = None
    level: int = 3
    fusion: Literal["sum", "concat"] = "sum"
    low_level_filters: int = 256
    head_kernel: int = 3
    head_depths: tuple[int, int, int] = (2, 2, 2)
    embedding_dim: int = 256
    position: bool = False
    proposals: int = 50
    peak_kernel: int = 3
    input: InputConfig = field(default_factory=InputConfig)
    merge: MergeConfig = field(default_factory=MergeConfig)
