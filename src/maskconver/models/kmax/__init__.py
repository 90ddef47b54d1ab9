"""The kMaX-DeepLab family, ReMaX's networks among it."""

from __future__ import annotations

import re

from ..base import ExportLimits, Family
from ..registry import register_family
from .config import KMaXConfig, ReMaXConfig, upgraded
from .import_official import import_official
from .losses import KMaXCriterion, KMaXLossConfig, check
from .model import KMaXDeepLab, KMaXOutput
from .optimize import InferenceKMaX

__all__ = ["KMaXConfig", "KMaXDeepLab", "KMaXOutput", "ReMaXConfig"]


FAMILY = register_family(
    Family(
        name="kmax",
        kinds={"kmax": (KMaXConfig, KMaXDeepLab)},
        loss=KMaXLossConfig,
        criterion=KMaXCriterion,
        class_shaped=re.compile(
            r"decoder\.(layers\.\d+\.)?(predictor\.class_head|gate\.branch\.out)\.(weight|bias)"
            r"|kept_gates\.\d+\.branch\.out\.(weight|bias)"
            r"|semantic_head\.(out|2)\.(weight|bias)"
        ),
        optimize=InferenceKMaX,
        importer=import_official,
        upgrade=upgraded,
        check=check,
        limits=ExportLimits(
            formats=("onnx", "torch-export"),
            panoptic=False,
            dynamic=False,
            fewer_proposals=False,
            hard_sigmoid=False,
            opset=20,  # of GELU
        ),
    )
)

from . import variants  # noqa: E402, F401  (registers the names)
