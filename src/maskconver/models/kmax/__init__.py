"""The kMaX-DeepLab family, ReMaX's networks among it."""

from .config import KMaXConfig, ReMaXConfig
from .model import KMaXDeepLab, KMaXOutput

__all__ = ["KMaXConfig", "KMaXDeepLab", "KMaXOutput", "ReMaXConfig"]
