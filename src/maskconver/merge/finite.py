"""What NaN and infinite values of a network do, the same for every rule."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import MaskconverError


def is_finite(values: Any) -> bool:
    """Whether an array or tensor holds neither NaN nor infinite values; two passes, no memory."""
    return not np.prod(values.shape) or bool(np.isfinite([float(values.min()), float(values.max())]).all())


def non_finite_error(what: str) -> MaskconverError:
    """The error that says so, of `what`: scores, mask logits."""
    return MaskconverError(
        f"the network's {what} hold NaN or infinite values; run it in float32, use weights that did not "
        'diverge, or discard such proposals with non_finite="drop"'
    )
