"""The recipe: everything a training run depends on, as one dataclass; a YAML file is it written down."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from ..core.config import renamed
from ..errors import ConfigError
from ..models import list_models, model_config
from ..models.registry import family_of, model_loss
from .loader import DataConfig
from .optim import OptimConfig, ScheduleConfig


@dataclass
class ModelChoice:
    """Which network is trained. In recipes the fields of `config` stand beside the others.

    Attributes:
        name: see `maskconver models`.
        backbone_weights: what the backbone starts from: `pretrained` (timm's weights of its name, from the
            network), or a file of torchvision, timm or this package (.safetensors, .pth).
        config: the network's config; as registered under `name` where None.
    """

    name: str = "maskconver_mobile_256"
    backbone_weights: str | None = None
    config: Any = None

    def __post_init__(self) -> None:
        if self.config is None:
            self.config = model_config(self.name)


@dataclass
class TrainConfig:
    """A whole run.

    Attributes:
        model: which network, and what differs from the registered one.
        data: which data, how it is varied and loaded.
        loss: weights and kinds of the loss terms, a config of the model's family; where None, what the model
            is registered with.
        optim: the optimiser.
        schedule: how the learning rate runs.
        out: folder of the run (checkpoints, logs, pictures, the resolved recipe).
        steps: optimiser steps.
        accumulate: batches a step.
        precision: `fp32`, `bf16` or `fp16` (mixed).
        ema: decay of the averaged weights that are evaluated and kept, warmed up as min(ema, (1+t)/(10+t)); 0
            for none.
        seed: of everything random.
        val_every: steps between validations.
        checkpoint_every: steps between checkpoints.
        log_every: steps between log lines.
        pictures: predictions drawn beside ground truth at each validation.
        init_from: model file or bundled name to start from.
        init_modules: only these modules of it (or parts), separated by commas: `backbone,decoder.unet`.
        resume: `auto` goes on from the run's last checkpoint if there is one; or a checkpoint's path.
        overfit: train and evaluate on the first N training images, unvaried.
        channels_last: memory layout of images and weights; faster on CPUs and tensor cores.
        device: `auto`, `cpu`, `cuda` or `mps`.
        devices: how many.
        threads: CPU threads of torch; None leaves them as they are.
    """

    model: ModelChoice = field(default_factory=ModelChoice)
    data: DataConfig = field(default_factory=DataConfig)
    loss: Any = None
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    out: str = "runs/train"
    steps: int = 2000
    accumulate: int = 1
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    ema: float = 0.999
    seed: int = 0
    val_every: int = 500
    checkpoint_every: int = 200
    log_every: int = 20
    pictures: int = 4
    init_from: str | None = None
    init_modules: str | None = None
    resume: str | None = None
    overfit: int | None = None
    channels_last: bool = True
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    devices: int = 1
    threads: int | None = None

    def __post_init__(self) -> None:
        expected = family_of(self.model.config).loss
        if self.loss is None:
            self.loss = model_loss(self.model.name)
        elif type(self.loss) is not expected:
            raise ConfigError(
                f"{self.model.name} is trained with a loss of {expected.__name__}, "
                f"not of {type(self.loss).__name__}"
            )


def recipe_yaml(config: TrainConfig) -> str:
    """The resolved recipe as YAML: every field with its value, those of the registered model included."""
    import yaml

    values = dataclasses.asdict(config)
    network = values["model"].pop("config")
    values["model"] |= network
    return yaml.safe_dump(_plain(values), sort_keys=False, allow_unicode=True)


def upgraded(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe by today's names, also one that an earlier version wrote.

    Args:
        recipe: as YAML holds it; left as it is.
    """
    recipe = {"loss" if name == "kmax_loss" else name: value for name, value in recipe.items()}
    model = recipe.get("model")
    if not isinstance(model, dict):
        return recipe
    name = model.get("name", ModelChoice.name)
    recipe["model"] = renamed(model)
    return family_of(model_config(name)).upgrade(recipe) if name in list_models() else recipe


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
