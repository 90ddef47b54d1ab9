"""The MaskConver family."""

from .config import MaskConverConfig
from .model import Maps, MaskConver

__all__ = ["Maps", "MaskConver", "MaskConverConfig"]
