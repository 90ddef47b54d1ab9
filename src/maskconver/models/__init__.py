"""Networks and their registry."""

from .kmax import variants as _kmax_variants  # noqa: F401  (registers the names)
from .maskconver import variants as _variants  # noqa: F401  (registers the names)
from .registry import create_model, list_models, model_config, register_model

__all__ = ["create_model", "list_models", "model_config", "register_model"]
