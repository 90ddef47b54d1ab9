"""What a family of models is trained with: from its output and a batch to weighted loss terms."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..errors import ConfigError
from ..models.batch import Batch
from ..models.kmax import KMaXDeepLab
from ..models.kmax.losses import KMaXCriterion
from ..models.maskconver.losses import LossConfig, maskconver_losses
from ..models.maskconver.remask import SemanticRelaxation
from ..models.registry import CenterModel, Model
from .config import TrainConfig


class MaskConverCriterion(nn.Module):
    """`maskconver_losses` with the run's choices; with `remask` it has a semantic branch.

    Args:
        model: what it will judge.
        config: weights and kinds.
        min_iou: of the Gaussians on the heatmap.
    """

    def __init__(self, model: CenterModel, config: LossConfig, min_iou: float = 0.7) -> None:
        super().__init__()
        self.config, self.min_iou = config, min_iou
        self.relaxation = SemanticRelaxation(model) if config.remask else None

    def forward(self, model: Any, output: Any, batch: Batch) -> dict[str, Tensor]:
        """The terms of a batch, each weighted already."""
        return maskconver_losses(model, output, batch, self.config, self.min_iou, self.relaxation)


def create_criterion(model: Model, config: TrainConfig) -> nn.Module:
    """The criterion of a model's family: called with the model, its output and the batch, it gives the terms.

    It may have weights of its own, which learn with the model's and are no part of it.

    Raises:
        ConfigError: loss weights of another family were set.
    """
    mine, other = ("kmax_loss", "loss") if isinstance(model, KMaXDeepLab) else ("loss", "kmax_loss")
    if getattr(config, other) != type(getattr(config, other))():
        raise ConfigError(f"{model.name or 'this model'} is trained with {mine}.…, but {other}.… was set")
    if isinstance(model, KMaXDeepLab):
        return KMaXCriterion(model, config.kmax_loss)
    return MaskConverCriterion(model, config.loss, config.data.targets.min_iou)
