"""The registered kMaX-DeepLab and ReMaX networks (arXiv 2207.04044, 2306.17319); ReMaX is how some train."""

from __future__ import annotations

from dataclasses import replace

from ..registry import register_model
from ..remax import ETA
from .config import KMaXConfig, ReMaXConfig
from .losses import KMaXLossConfig

SMALL: dict[str, tuple[int, ...]] = {"pixel_blocks": (1, 1, 1, 1), "decoder_layers": (1, 1, 1)}
CONVNEXT_DROP = {"convnext_tiny": 0.3, "convnext_small": 0.4}


def _kmax(size: int, **changes: object) -> KMaXConfig:
    config = KMaXConfig(**changes)  # type: ignore[arg-type]
    return replace(config, input=replace(config.input, size=(size, size)))


def relaxed() -> KMaXLossConfig:
    """The paper's relaxations, with which the `remax_*` models are trained."""
    return KMaXLossConfig(remax=ReMaXConfig(mask_id_loss="sigmoid", remask_layers=4, eta=ETA))


def _remax(config: KMaXConfig) -> KMaXConfig:
    """The same network; trained with `relaxed`, its masks are sigmoids, also when read."""
    return replace(config, postprocess=replace(config.postprocess, mask_activation="sigmoid"))


@register_model(published="COCO PQ 40.4", loss=relaxed)
def remax_t() -> KMaXConfig:
    """ReMaX-T: MobileNetV3-Small, one k-means layer a stride, 641 px."""
    return _remax(_kmax(641, backbone="mobilenetv3_small_100", **SMALL))


@register_model(published="COCO PQ 44.6", loss=relaxed)
def remax_s() -> KMaXConfig:
    """ReMaX-S: MobileNetV3-Large, one k-means layer a stride, 641 px."""
    return _remax(_kmax(641, backbone="mobilenetv3_large_100", **SMALL))


@register_model(published="COCO PQ 49.1", loss=relaxed)
def remax_m() -> KMaXConfig:
    """ReMaX-M: ResNet-50, one k-means layer a stride, 641 px."""
    return _remax(_kmax(641, decoder_layers=(1, 1, 1)))


@register_model(published="COCO PQ 54.2", loss=relaxed)
def remax_b() -> KMaXConfig:
    """ReMaX-B: ResNet-50, two k-means layers a stride, 1281 px."""
    return _remax(_kmax(1281))


@register_model(published="COCO PQ 53.0")
def kmax_r50() -> KMaXConfig:
    """kMaX-DeepLab, ResNet-50, 1281 px."""
    return _kmax(1281)


def _convnext(name: str) -> KMaXConfig:
    return _kmax(1281, backbone=name, backbone_drop_path=CONVNEXT_DROP[name])


@register_model(published="COCO PQ 55.3")
def kmax_convnext_t() -> KMaXConfig:
    """kMaX-DeepLab, ConvNeXt-T, 1281 px."""
    return _convnext("convnext_tiny")


@register_model(published="COCO PQ 56.3")
def kmax_convnext_s() -> KMaXConfig:
    """kMaX-DeepLab, ConvNeXt-S, 1281 px."""
    return _convnext("convnext_small")


@register_model(published="COCO PQ 56.2")
def kmax_max_s() -> KMaXConfig:
    """kMaX-DeepLab, MaX-S (axial ResNet-50), 1281 px."""
    return _kmax(1281, backbone="max_s", backbone_drop_path=0.2)


@register_model(published="COCO PQ 55.9", loss=relaxed)
def remax_convnext_t() -> KMaXConfig:
    """ReMaX, ConvNeXt-T, 1281 px."""
    return _remax(_convnext("convnext_tiny"))


@register_model(published="COCO PQ 56.6", loss=relaxed)
def remax_convnext_s() -> KMaXConfig:
    """ReMaX, ConvNeXt-S, 1281 px."""
    return _remax(_convnext("convnext_small"))


@register_model(loss=relaxed)
def remax_max_s() -> KMaXConfig:
    """ReMaX, MaX-S (axial ResNet-50), 1281 px."""
    return _remax(_kmax(1281, backbone="max_s", backbone_drop_path=0.2))
