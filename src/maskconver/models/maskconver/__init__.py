"""The MaskConver family."""

import re

from ..base import Family
from ..registry import register_family
from .config import MaskConverConfig, MultiScaleConfig, upgraded
from .losses import LossConfig, MaskConverCriterion
from .model import Maps, MaskConver
from .optimize import optimize

__all__ = ["Maps", "MaskConver", "MaskConverConfig", "MultiScaleConfig"]

FAMILY = register_family(
    Family(
        name="maskconver",
        kinds={
            "maskconver": (MaskConverConfig, MaskConver),
            "maskconver_multiscale": (MultiScaleConfig, MaskConver),
        },
        loss=LossConfig,
        criterion=MaskConverCriterion,
        class_shaped=re.compile(
            r"(class_head\.(\d+\.)?|semantic_head\.)out\.(weight|bias)|class_embedding\.weight"
        ),
        optimize=optimize,
        upgrade=upgraded,
    )
)

from . import variants  # noqa: E402, F401  (registers the names)
