"""The MaskConver family."""

from .config import MaskConverConfig, MultiScaleConfig
from .model import Maps, MaskConver
from .multiscale import MultiScaleMaskConver, PyramidMaps

__all__ = [
    "Maps",
    "MaskConver",
    "MaskConverConfig",
    "MultiScaleConfig",
    "MultiScaleMaskConver",
    "PyramidMaps",
]
