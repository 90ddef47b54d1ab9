"""The MaskConver family."""

import re

from ..base import Family
from ..registry import register_family
from .config import MaskConverConfig, MultiScaleConfig
from .losses import LossConfig, MaskConverCriterion
from .model import Maps, MaskConver
from .multiscale import CenterModel, MultiScaleMaskConver, PyramidMaps

__all__ = [
    "Maps",
    "MaskConver",
    "MaskConverConfig",
    "MultiScaleConfig",
    "MultiScaleMaskConver",
    "PyramidMaps",
]


def _optimize(model: CenterModel) -> CenterModel:
    return model.fused()


FAMILY = register_family(
    Family(
        name="maskconver",
        kinds={
            "maskconver": (MaskConverConfig, MaskConver),
            "maskconver_multiscale": (MultiScaleConfig, MultiScaleMaskConver),
        },
        loss=LossConfig,
        criterion=MaskConverCriterion,
        class_shaped=re.compile(r"class_head\.(\d+\.)?out\.(weight|bias)|class_embedding\.weight"),
        optimize=_optimize,
    )
)

from . import variants  # noqa: E402, F401  (registers the names)
