"""Annotation in, training targets out; no network here."""

from .assign import ImageTargets, assign_targets
from .config import TargetConfig
from .heatmaps import center_cells, center_heatmaps
from .islands import stuff_islands
from .levels import assign_levels

__all__ = [
    "ImageTargets",
    "TargetConfig",
    "assign_levels",
    "assign_targets",
    "center_cells",
    "center_heatmaps",
    "stuff_islands",
]
