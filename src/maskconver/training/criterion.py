"""What a model is trained with: its family's criterion, with the run's choices."""

from __future__ import annotations

from torch import nn

from ..errors import ConfigError
from ..models.base import SegmentationModel
from .config import TrainConfig


def create_criterion(model: SegmentationModel, config: TrainConfig) -> nn.Module:
    """The criterion of a model's family: called with the model, its output and the batch, it gives the terms.

    It may have weights of its own, which learn with the model's and are no part of it.

    Raises:
        ConfigError: loss weights of another family were set.
    """
    family = model.family
    mine, other = ("loss", "kmax_loss") if isinstance(config.loss, family.loss) else ("kmax_loss", "loss")
    if getattr(config, other) != type(getattr(config, other))():
        raise ConfigError(f"{model.name or 'this model'} is trained with {mine}.…, but {other}.… was set")
    return family.criterion(model, getattr(config, mine), min_iou=config.data.targets.min_iou)
