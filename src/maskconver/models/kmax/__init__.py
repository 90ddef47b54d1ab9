"""The kMaX-DeepLab family, ReMaX's networks among it."""

from __future__ import annotations

import os
import re

from ...core.categories import Categories
from ..base import ExportLimits, Family
from ..registry import register_family
from .config import KMaXConfig, ReMaXConfig
from .fuse import fuse
from .import_official import ImportReport, import_kmax_deeplab, model_of, read_official
from .losses import KMaXCriterion, KMaXLossConfig
from .model import KMaXDeepLab, KMaXOutput

__all__ = ["KMaXConfig", "KMaXDeepLab", "KMaXOutput", "ReMaXConfig"]


def _import(path: str | os.PathLike[str], categories: Categories | None) -> tuple[KMaXDeepLab, ImportReport]:
    """A model with the weights of a checkpoint of the official PyTorch code."""
    state = read_official(path)
    model = model_of(state, categories)
    return model, import_kmax_deeplab(model, state)


FAMILY = register_family(
    Family(
        name="kmax",
        kinds={"kmax": (KMaXConfig, KMaXDeepLab)},
        loss=KMaXLossConfig,
        criterion=KMaXCriterion,
        class_shaped=re.compile(
            r"decoder\.(layers\.\d+\.)?(predictor\.class_head|gate\.branch\.out)\.(weight|bias)"
            r"|semantic_head\.(out|2)\.(weight|bias)"
        ),
        optimize=fuse,
        importer=_import,
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
