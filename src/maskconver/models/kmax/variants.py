"""The registered kMaX-DeepLab and ReMaX networks (arXiv 2207.04044, 2306.17319); ReMaX is how some train."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ..registry import register_model
from ..remax import ETA
from .config import KMaXConfig, KMaXTraining, ReMaXConfig
from .losses import KMaXLossConfig

SMALL: dict[str, tuple[int, ...]] = {"pixel_blocks": (1, 1, 1, 1), "decoder_layers": (1, 1, 1)}
DROP_PATH = 0.2  # of the k-means layers


def _kmax(size: int, **changes: object) -> KMaXConfig:
    config = KMaXConfig(**changes)  # type: ignore[arg-type]
    return replace(config, input=replace(config.input, size=(size, size)))


def _drops(backbone: float = 0.0) -> Callable[[], KMaXTraining]:
    """Stochastic depth as published, with that of the backbone."""
    return lambda: KMaXTraining(drop_path=DROP_PATH, backbone_drop_path=backbone)


def relaxed() -> KMaXLossConfig:
    """The paper's relaxations, with which the `remax_*` models are trained."""
    return KMaXLossConfig(remax=ReMaXConfig(mask_id_loss="sigmoid", remask_layers=4, eta=ETA))


def _remax(config: KMaXConfig) -> KMaXConfig:
    """The same network; trained with `relaxed`, its masks are sigmoids, also when read."""
    return replace(config, postprocess=replace(config.postprocess, mask_activation="sigmoid"))


@register_model(published="COCO PQ 40.4", loss=relaxed, training=_drops())
def remax_t() -> KMaXConfig:
    """ReMaX-T: MobileNetV3-Small, one k-means layer a stride, 641 px."""
    return _remax(_kmax(641, backbone="mobilenetv3_small_100", **SMALL))


@register_model(published="COCO PQ 44.6", loss=relaxed, training=_drops())
def remax_s() -> KMaXConfig:
    """ReMaX-S: MobileNetV3-Large, one k-means layer a stride, 641 px."""
    return _remax(_kmax(641, backbone="mobilenetv3_large_100", **SMALL))


@register_model(published="COCO PQ 49.1", loss=relaxed, training=_drops())
def remax_m() -> KMaXConfig:
    """ReMaX-M: ResNet-50, one k-means layer a stride, 641 px."""
    return _remax(_kmax(641, decoder_layers=(1, 1, 1)))


@register_model(published="COCO PQ 54.2", loss=relaxed, training=_drops())
def remax_b() -> KMaXConfig:
    """ReMaX-B: ResNet-50, two k-means layers a stride, 1281 px."""
    return _remax(_kmax(1281))


@register_model(published="COCO PQ 53.0", training=_drops())
def kmax_r50() -> KMaXConfig:
    """kMaX-DeepLab, ResNet-50, 1281 px."""
    return _kmax(1281)


@register_model(published="COCO PQ 55.3", training=_drops(0.3))
def kmax_convnext_t() -> KMaXConfig:
    """kMaX-DeepLab, ConvNeXt-T, 1281 px."""
    return _kmax(1281, backbone="convnext_tiny")


@register_model(published="COCO PQ 56.3", training=_drops(0.4))
def kmax_convnext_s() -> KMaXConfig:
    """kMaX-DeepLab, ConvNeXt-S, 1281 px."""
    return _kmax(1281, backbone="convnext_small")


@register_model(published="COCO PQ 56.2", training=_drops(0.2))
def kmax_max_s() -> KMaXConfig:
    """kMaX-DeepLab, MaX-S (axial ResNet-50), 1281 px."""
    return _kmax(1281, backbone="max_s")


@register_model(published="COCO PQ 55.9", loss=relaxed, training=_drops(0.3))
def remax_convnext_t() -> KMaXConfig:
    """ReMaX, ConvNeXt-T, 1281 px."""
    return _remax(_kmax(1281, backbone="convnext_tiny"))


@register_model(published="COCO PQ 56.6", loss=relaxed, training=_drops(0.4))
def remax_convnext_s() -> KMaXConfig:
    """ReMaX, ConvNeXt-S, 1281 px."""
    return _remax(_kmax(1281, backbone="convnext_small"))


@register_model(loss=relaxed, training=_drops(0.2))
def remax_max_s() -> KMaXConfig:
    """ReMaX, MaX-S (axial ResNet-50), 1281 px."""
    return _remax(_kmax(1281, backbone="max_s"))
