"""What the predictors of kMaX-DeepLab say."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Prediction(NamedTuple):
    """What a predictor says about N queries.

    Attributes:
        class_logits: B×N×(K+1), "no object" last; None where they were not asked for.
        mask_logits: B×N×h×w float32 (of the weights' type).
        pixel_feature: B×128×h×w of length 1.
        key: B×256×h×w, what a k-means layer drew it on; None of the final prediction, and where class logits
            were not asked for.
        semantic_logits: B×K×h×w, m_sem of a layer whose masks are relaxed at inference too; None of others.
    """

    class_logits: Tensor | None
    mask_logits: Tensor
    pixel_feature: Tensor
    key: Tensor | None = None
    semantic_logits: Tensor | None = None
