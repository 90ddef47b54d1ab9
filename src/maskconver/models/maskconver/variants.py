"""The registered MaskConver models."""

from __future__ import annotations

from ...config import InputConfig, MergeConfig
from ..registry import register_model
from .config import MaskConverConfig


def _mobile(size: int, **changes: object) -> MaskConverConfig:
    return MaskConverConfig(input=InputConfig(size=(size, size)), **changes)  # type: ignore[arg-type]


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


@register_model()
def maskconver_mobile_dense_512() -> MaskConverConfig:
    """MobileNet-MH with stride-4 heads, position-aware masks and 400 proposals: many small objects (ours)."""
    return MaskConverConfig(
        decoder="aspp_fpn",
        filters=96,
        embedding_dim=96,
        level=2,
        head_kernel=5,
        position=True,
        proposals=400,
        input=InputConfig(size=(512, 512)),
        merge=MergeConfig(
            min_area=0.0, object_threshold=0.3, pixel_threshold=0.5, nms_iou=0.5, reassign=True
        ),
    )
