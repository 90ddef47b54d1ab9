"""The recipe: everything a training run depends on, as one dataclass; a YAML file is it written down."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Union, get_type_hints

from ..models import model_config
from ..models.kmax import KMaXConfig
from ..models.kmax.losses import KMaXLossConfig
from ..models.maskconver.losses import LossConfig
from ..models.registry import families
from .loader import DataConfig
from .optim import OptimConfig, ScheduleConfig


def _optional(configs: Sequence[Any], name: str, first: list[tuple[str, Any, Any]]) -> type:
    """A dataclass with the fields of all configs, each optional and None: "as registered"."""
    kinds: dict[str, list[Any]] = {}
    for config in configs:
        for key, kind in get_type_hints(config).items():
            kinds.setdefault(key, []).append(kind)
    fields = list(first)
    for key, found in kinds.items():
        if isinstance(found[0], type) and dataclasses.is_dataclass(found[0]):
            nested = _optional(found[:1], f"{found[0].__name__}Override", [])
            fields.append((key, nested, field(default_factory=nested)))
        else:
            fields.append((key, Union[(*found, None)], None))
    made = dataclasses.make_dataclass(name, fields)
    made.__module__, made.__doc__ = __name__, configs[0].__doc__
    return made


ModelOverride = _optional(
    [config for family in families() for config, _ in family.kinds.values()],
    "ModelOverride",
    [("name", str, "maskconver_mobile_256"), ("backbone_weights", str | None, None)],
)
ModelOverride.__doc__ = """A registered model's name, and any field of its config that shall differ from it.

Attributes:
    name: see `maskconver models`.
    backbone_weights: what the backbone starts from: `pretrained` (timm's weights of its name, from the
        network), or a file of torchvision, timm or this package (.safetensors, .pth).
"""
NO_CONFIG = ("name", "backbone_weights")


def overrides(model: Any) -> dict[str, Any]:
    """The fields of the model's config that were set, nested ones as dicts."""
    values: dict[str, Any] = {}
    for f in dataclasses.fields(model):
        value = getattr(model, f.name)
        if dataclasses.is_dataclass(value):
            value = overrides(value) or None
        if value is not None and f.name not in NO_CONFIG:
            values[f.name] = value
    return values


@dataclass
class TrainConfig:
    """A whole run.

    Attributes:
        model: registered name and overrides.
        data, optim, schedule: see their classes.
        loss: of MaskConver models.
        kmax_loss: of kMaX-DeepLab models; how ReMaX relaxes them is the model's business (`model.remax`).
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

    model: ModelOverride = field(default_factory=ModelOverride)  # type: ignore[valid-type]
    data: DataConfig = field(default_factory=DataConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    kmax_loss: KMaXLossConfig = field(default_factory=KMaXLossConfig)
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


def loss_of(config: TrainConfig) -> str:
    """The field of a run's losses, by its model's family."""
    family = model_config(config.model.name)  # type: ignore[attr-defined]
    return "kmax_loss" if isinstance(family, KMaXConfig) else "loss"


def recipe_yaml(config: TrainConfig) -> str:
    """The resolved recipe as YAML: every field with its value, those of the registered model included."""
    import yaml

    values = dataclasses.asdict(config)
    for name in ("loss", "kmax_loss"):  # the other family's, unless it was set
        if name != loss_of(config) and getattr(config, name) == type(getattr(config, name))():
            del values[name]
    registered = dataclasses.asdict(model_config(values["model"]["name"]))
    model = values["model"]
    # What models of other kinds have is not printed, unless it was set: then the run will refuse it.
    was_set = overrides(config.model)
    values["model"] = {k: v for k, v in model.items() if k in (*NO_CONFIG, *registered) or k in was_set}
    _fill(values["model"], registered)
    return yaml.safe_dump(_plain(values), sort_keys=False, allow_unicode=True)


def _fill(values: dict[str, Any], defaults: dict[str, Any]) -> None:
    for key, default in defaults.items():
        if isinstance(default, dict):
            _fill(values[key], default)
        elif values[key] is None:
            values[key] = default


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
