"""The registered MaskConver models."""

from __future__ import annotations

from ...core.config import InputConfig, PostprocessConfig
from ..registry import register_model
from .config import LEVEL_RANGES_1280, MaskConverConfig, MultiScaleConfig, MultiScaleTraining


def _mobile(size: int, **changes: object) -> MaskConverConfig:
    return MaskConverConfig(**{"input": InputConfig(size=(size, size)), **changes})  # type: ignore[arg-type]


@register_model(published="COCO PQ 29.7")
def maskconver_mobile_256() -> MaskConverConfig:
    """MobileNet-MH, things and stuff as centre points, 256 px."""
    return _mobile(256)


@register_model(published="COCO PQ 33.8")
def maskconver_mobile_384() -> MaskConverConfig:
    """MobileNet-MH, things and stuff as centre points, 384 px."""
    return _mobile(384)


@register_model(published="COCO PQ 37.2")
def maskconver_mobile_640() -> MaskConverConfig:
    """MobileNet-MH, things and stuff as centre points, 640 px."""
    return _mobile(640)


@register_model()
def maskconver_mnv3l_640() -> MaskConverConfig:
    """MobileNetV3-Large (timm) under the mobile decoder and heads, 640 px."""
    return _mobile(640, backbone="mobilenetv3_large_100")


@register_model()
def maskconver_mnv3s_640() -> MaskConverConfig:
    """MobileNetV3-Small (timm) under the mobile decoder and heads, 640 px."""
    return _mobile(640, backbone="mobilenetv3_small_100")


def _dense(**changes: object) -> MaskConverConfig:
    """Heads at stride 4, masks that know their place, many proposals."""
    merge = PostprocessConfig(
        min_area=0.0, score_threshold=0.3, mask_threshold=0.5, nms_iou=0.5, reassign=True
    )
    own = {"decoder": "aspp_fpn", "filters": 96, "embedding_dim": 96, "level": 2, "head_kernel": 5}
    return _mobile(512, **{**own, "position": True, "proposals": 400, "postprocess": merge, **changes})


@register_model(ours="nuclei PQ 77.3 (things), facade PQ 43.2, camvid mIoU 63.7")
def maskconver_mobile_dense_512() -> MaskConverConfig:
    """MobileNet-MH with stride-4 heads, position-aware masks and 400 proposals: many small objects (ours)."""
    return _dense()


@register_model()
def maskconver_mnv4s_dense_512() -> MaskConverConfig:
    """MobileNetV4-Conv-Small (timm) under the decoder and heads of `maskconver_mobile_dense_512` (ours)."""
    return _dense(backbone="mobilenetv4_conv_small")


@register_model()
def maskconver_lite0_dense_512() -> MaskConverConfig:
    """EfficientNet-Lite0 (timm) under the decoder and heads of `maskconver_mobile_dense_512` (ours)."""
    halves = (0.5, 0.5, 0.5)
    return _dense(
        backbone="tf_efficientnet_lite0", input=InputConfig(size=(512, 512), mean=halves, std=halves)
    )


def _multiscale(size: int, **changes: object) -> MultiScaleConfig:
    merge = PostprocessConfig(score_threshold=0.2, overlap_threshold=0.75, min_area=16 / 640**2)
    return MultiScaleConfig(**{"input": InputConfig(size=(size, size)), "postprocess": merge, **changes})  # type: ignore[arg-type]


def _drops() -> MultiScaleTraining:
    return MultiScaleTraining(drop_path=0.1)


@register_model(training=_drops)
def maskconver_r50_640() -> MultiScaleConfig:
    """ResNet-50, ConvNeXt-UNet, centres on five levels, 640 px."""
    return _multiscale(640)


@register_model(published="COCO PQ 53.6", training=_drops)
def maskconver_r50_1280() -> MultiScaleConfig:
    """ResNet-50, ConvNeXt-UNet, centres on five levels, 1280 px."""
    return _multiscale(1280, level_ranges=LEVEL_RANGES_1280)


@register_model(training=MultiScaleTraining)
def maskconver_r50_fpn_640() -> MultiScaleConfig:
    """ResNet-50, FPN, full 3×3 convolutions, centres on five levels, 640 px."""
    return _multiscale(
        640,
        activation="swish",
        backbone_activation="swish",
        decoder="fpn",
        fusion="sum",
        separable=False,
        decoder_kernel=3,
        decoder_norm="batch",
        head_kernel=3,
        head_depths=(2, 2, 2),
        mask_fusion="panoptic_fpn",
        proposals=100,
        postprocess=PostprocessConfig(score_threshold=0.01, overlap_threshold=0.7, min_area=4 / 640**2),
    )


def _spinenet(backbone: str) -> MaskConverConfig:
    return _mobile(
        640,
        backbone=backbone,
        aspp_rates=(12, 24, 36),
        fusion="none",
        separable=False,
        activation="swish",
        proposals=100,
        postprocess=PostprocessConfig(score_threshold=0.2, overlap_threshold=0.5, min_area=0.0),
    )


@register_model(published="COCO PQ 45.9")
def maskconver_spinenet49_640() -> MaskConverConfig:
    """SpineNet-Seg 49 (a reconstruction of its size), one level, 640 px."""
    return _spinenet("spinenet49")


@register_model(published="COCO PQ 47.0")
def maskconver_spinenet49plus_640() -> MaskConverConfig:
    """SpineNet-Seg 49+ (a reconstruction of its size), one level, 640 px."""
    return _spinenet("spinenet49plus")


@register_model()
def maskconver_seg_mobile_coco() -> MaskConverConfig:
    """Semantic MobileNet-MH at stride 8, 640 px: the pre-training of the mobile panoptic models."""
    return _mobile(640, bn_momentum=0.003, proposals=100)


@register_model(published="VOC mIoU 76.4")
def maskconver_seg_mobile_voc() -> MaskConverConfig:
    """Semantic MobileNet-MH at stride 16, 512 px."""
    return _mobile(
        512,
        bn_momentum=0.003,
        level=4,
        head_depths=(2, 1, 1),
        proposals=100,
        postprocess=PostprocessConfig(score_threshold=0.1, overlap_threshold=0.0, min_area=256 / 512**2),
    )


@register_model(published="Cityscapes mIoU 75.54")
def maskconver_seg_mobile_cityscapes() -> MaskConverConfig:
    """Semantic MobileNet-MH at stride 16 with half the channels, 1024×2048 px."""
    return MaskConverConfig(
        filters=128,
        embedding_dim=128,
        aspp_pool_window=(32, 64),  # 512×1024 px of the input
        level=4,
        fusion="concat",
        low_level_filters=48,
        proposals=100,
        input=InputConfig(size=(1024, 2048)),
        postprocess=PostprocessConfig(score_threshold=0.01, overlap_threshold=0.0, min_area=256 / 2048**2),
    )
