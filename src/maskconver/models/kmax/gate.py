"""ReMask on the layers of kMaX-DeepLab (ReMaX §3.1; kmax page §4.1)."""

from __future__ import annotations

from torch import Tensor, nn

from ..layers import full_precision
from ..remax import SemanticBranch, class_probability, relax, semantic_gate
from .config import ReMaXConfig
from .prediction import Prediction

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
            self.branch = SemanticBranch(inp, num_classes, config.aspp == "separable", momentum)

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
            classes = class_probability(prediction.class_logits.float(), config.mask_id_loss, -1)[..., :-1]
            pixels = semantic if truth else class_probability(semantic.float(), config.mask_id_loss, 1)
            gate = semantic_gate(
                pixels.detach() if config.stop_gradient else pixels,
                classes.detach() if config.detach_class else classes,
            )
            return relax(prediction.mask_logits, gate, config.identity_mapping)
