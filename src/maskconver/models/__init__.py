"""Networks, the families they belong to, and their registry."""

from . import kmax, maskconver  # noqa: F401  (they register themselves)
from .base import ExportLimits, Family, SegmentationModel
from .registry import create_model, list_models, model_config, register_family, register_model

__all__ = [
    "ExportLimits",
    "Family",
    "SegmentationModel",
    "create_model",
    "list_models",
    "model_config",
    "register_family",
    "register_model",
]
