"""The recipe: everything a training run depends on, as one dataclass; a YAML file is it written down."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal

from ..core.config import renamed
from ..errors import ConfigError
from ..models import list_models, model_config
from ..models.registry import family_of, model_loss, model_training
from .loader import DataConfig
from .optim import OptimConfig, ScheduleConfig


@dataclass
class ModelChoice:
    """Which network is trained. In recipes the fields of `config` stand beside the others.

    Attributes:
        name: a registered model; `maskconver models` lists them.
        backbone_weights: initial weights of the backbone: `pretrained` (timm's weights of that name, which
            are downloaded), or a file of torchvision, timm or this package (.safetensors, .pth).
        config: the network's config; the registered one if None.
    """

    name: str = "maskconver_mobile_256"
    backbone_weights: str | None = None
    config: Any = None

    def __post_init__(self) -> None:
        if self.config is None:
            self.config = model_config(self.name)


@dataclass
class TrainConfig:
    """The training run.

    Attributes:
        model: the network, and what differs from the registered one.
        data: data set, augmentation and loading.
        loss: weights and kinds of the loss terms, a config of the model's family; what the model
            is registered with if None.
        training: what of the network only training knows, such as stochastic depth; what the model is
            registered with if None. Some models have no such options.
        optim: the optimiser.
        schedule: the learning rate over the steps.
        out: folder of the run: checkpoints, logs, images of predictions, the resolved recipe.
        steps: number of optimiser steps.
        accumulate: batches per step.
        precision: `fp32`, or mixed precision with `bf16` or `fp16`.
        ema: decay of the averaged weights, which are evaluated and saved; warmed up as min(ema,
            (1+t)/(10+t)). 0 switches averaging off.
        seed: seed of all random numbers.
        val_every: steps between validations.
        checkpoint_every: steps between checkpoints.
        log_every: steps between log lines.
        log_images: number of predictions drawn beside ground truth at each validation; 0 draws no images at
            all.
        logger: where figures go besides `metrics.csv`, separated by commas: `tensorboard`, `wandb`, `mlflow`,
            `trackio`; `csv` for nothing else.
        init_from: model file, run folder or bundled name to start from; `none` starts from random weights
            where a recipe names one.
        init_modules: copy only these modules (or parts of them) from there, separated by commas:
            `backbone,decoder.unet`.
        freeze: modules whose weights and batch-norm statistics stay as they are, names or shell patterns
            separated by commas: `backbone.block[0-6]`. The first layers then need no backward pass.
        freeze_steps: step from which these modules learn again; 0 keeps them frozen for the whole run.
        batch_norm: `train` updates all batch-norm statistics. `frozen` keeps those that came with
            `init_from` or `backbone_weights`; their scales and offsets learn. `auto` is `frozen` for batches
            of fewer than 4 images, whose statistics are too noisy, and `train` otherwise.
        resume: `auto` continues from the run's last checkpoint if there is one; or the path of a checkpoint.
        overwrite: start again in a folder that already holds a run; its files are replaced.
        overfit: train and evaluate on the first N training images, without augmentation.
        channels_last: memory layout of images and weights; faster on CPUs and tensor cores.
        device: `auto`, `cpu`, `cuda` or `mps`.
        devices: number of devices of each machine, with a process for each.
        nodes: number of machines.
        strategy: how several processes share the work: `ddp` keeps the whole model in each; `fsdp` divides
            its weights among GPUs. `auto` is `ddp` where there are several.
        threads: number of CPU threads of PyTorch; its own default if None.
        deterministic: use only operations of PyTorch that give the same bits each time, which is slower. If
            an operation has no such form, the run stops and names it. On a CPU runs are repeatable without
            it, as long as `threads` stays the same.
    """

    model: ModelChoice = field(default_factory=ModelChoice)
    data: DataConfig = field(default_factory=DataConfig)
    loss: Any = None
    training: Any = None
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
    log_images: int = 4
    logger: str = "tensorboard"
    init_from: str | None = None
    init_modules: str | None = None
    freeze: str | None = None
    freeze_steps: int = 0
    batch_norm: Literal["auto", "train", "frozen"] = "auto"
    resume: str | None = None
    overwrite: bool = False
    overfit: int | None = None
    channels_last: bool = True
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    devices: int = 1
    nodes: int = 1
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    threads: int | None = None
    deterministic: bool = False

    def __post_init__(self) -> None:
        family = family_of(self.model.config)
        expected = family.loss
        if self.loss is None:
            self.loss = model_loss(self.model.name)
        elif type(self.loss) is not expected:
            raise ConfigError(
                f"{self.model.name} is trained with a loss of {expected.__name__}, "
                f"not of {type(self.loss).__name__}"
            )
        self._check()
        registered = model_training(self.model.name)
        if self.training is None:
            self.training = registered
        elif type(self.training) is not type(registered):
            raise ConfigError(f"{self.model.name} has no options of {type(self.training).__name__}")
        family.check(self.model.config, self.loss)

    @property
    def processes(self) -> int:
        """Of the whole run, on all machines."""
        return self.devices * self.nodes

    @property
    def step_images(self) -> int:
        """Images a step, of all processes."""
        return self.data.images * self.accumulate * self.processes

    def _check(self) -> None:
        """Refuses numbers that mean nothing.

        Raises:
            ConfigError: names the field and what it can be.
        """
        least: dict[str, tuple[Any, int]] = {
            "steps": (self.steps, 1),
            "accumulate": (self.accumulate, 1),
            "val_every": (self.val_every, 1),
            "checkpoint_every": (self.checkpoint_every, 1),
            "log_every": (self.log_every, 1),
            "log_images": (self.log_images, 0),
            "overfit": (self.overfit, 1),
            "devices": (self.devices, 1),
            "nodes": (self.nodes, 1),
            "threads": (self.threads, 1),
            "data.batch_size": (None if self.data.batch_size == "auto" else self.data.batch_size, 1),
            "data.workers": (self.data.workers, 0),
            "data.val_images": (self.data.val_images, 1),
            "data.targets.max_segments": (self.data.targets.max_segments, 1),
            "model.proposals": (getattr(self.model.config, "proposals", None), 1),
            "data.targets.islands": (self.data.targets.islands, 1),
            "schedule.warmup": (self.schedule.warmup, 0),
            "optim.base_batch": (self.optim.base_batch, 1),
            "freeze_steps": (self.freeze_steps, 0),
        }
        for name, (value, low) in least.items():
            if value is not None and value < low:
                raise ConfigError(f"`{name}` must be at least {low}, got {value}")
        if self.freeze_steps and not self.freeze:
            raise ConfigError("`freeze_steps` needs `freeze`: name the modules to freeze, or leave it out")
        if self.freeze_steps and self.processes > 1:
            raise ConfigError(
                "`freeze_steps` works in one process; freeze for the whole run, or give `devices=1` `nodes=1`"
            )
        if self.strategy == "fsdp" and (self.ema or self.optim.clip_norm):
            raise ConfigError(
                "`strategy=fsdp` supports neither averaged weights nor gradient clipping: set `ema=0` and "
                "`optim.clip_norm=null`, or use `strategy=ddp`"
            )
        if self.init_modules and not self.init_from:
            raise ConfigError("`init_modules` needs `init_from`: name the model to start from")
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"`seed` must be from 0 to {2**32 - 1}, got {self.seed}")
        if not 0 <= self.ema < 1:
            raise ConfigError(f"`ema` must be 0 (off) or below 1, got {self.ema:g}")
        for name, rate in (("lr", self.optim.lr), ("weight_decay", self.optim.weight_decay)):
            if not 0 <= rate < math.inf:
                raise ConfigError(f"`optim.{name}` must be a number from 0, got {rate:g}")


def recipe_yaml(config: TrainConfig) -> str:
    """The resolved recipe as YAML: every field with its value, those of the registered model included."""
    import yaml

    values = dataclasses.asdict(config)
    network = values["model"].pop("config")
    values["model"] |= network
    if values["training"] is None:
        del values["training"]
    return yaml.safe_dump(_plain(values), sort_keys=False, allow_unicode=True)


_OLD_NAMES = {"kmax_loss": "loss", "pictures": "log_images"}


def upgraded(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe by today's names, also one that an earlier version wrote.

    Args:
        recipe: as YAML holds it; left as it is.
    """
    recipe = {_OLD_NAMES.get(name, name): value for name, value in recipe.items()}
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
