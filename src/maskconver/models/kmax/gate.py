"""ReMask on the layers of kMaX-DeepLab (ReMaX, arXiv 2306.17319, §3.1)."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from ..layers import full_precision
from ..remax import SemanticBranch, probability, relax, semantic_gate
from .config import ReMaXConfig


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


KEY_DIM, FEATURE_DIM = 256, 128


class MaskGate(nn.Module):
    """The semantic branch of one layer, and equations 1 and 2 with it.

    Only training has it, in its criterion; with `remask_at_test` the layer itself does.

    Args:
        config: the choices.
        num_classes: K.
        momentum: of the batch norms.
    """

    def __init__(self, config: ReMaXConfig, num_classes: int, momentum: float = 0.01) -> None:
        super().__init__()
        self.config = config
        self.branch: SemanticBranch | None = None
        if config.semantic_source == "predicted":
            inp = KEY_DIM if config.x_sem == "key" else FEATURE_DIM
            self.branch = SemanticBranch(inp, num_classes, config.aspp == "separable", momentum=momentum)

    def semantic_logits(self, prediction: Prediction, key: Tensor) -> Tensor:
        """m_sem, B×K×h×w, of a layer's prediction and its key."""
        assert self.branch is not None
        return self.branch(key if self.config.x_sem == "key" else prediction.pixel_feature)

    def forward(self, prediction: Prediction, semantic: Tensor, truth: bool = False) -> Tensor:
        """The relaxed mask logits, B×N×h×w.

        Args:
            prediction: of the layer, with class logits.
            semantic: B×K×h×w, m_sem; or with `truth` the pixels' classes, one-hot, zero on void.
            truth: what `semantic` is.
        """
        config = self.config
        assert prediction.class_logits is not None
        with full_precision(semantic.device.type):
            # "No object" competes in a softmax, but is no class of a pixel.
            classes = probability(prediction.class_logits.float(), config.mask_id_loss, -1)[..., :-1]
            pixels = semantic if truth else probability(semantic.float(), config.mask_id_loss, 1)
            gate = semantic_gate(
                pixels.detach() if config.stop_gradient else pixels,
                classes.detach() if config.detach_class else classes,
            )
            return relax(prediction.mask_logits, gate, config.identity_mapping)
