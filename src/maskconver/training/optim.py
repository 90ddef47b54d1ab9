"""Optimisers and which parameters decay."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from ..errors import ConfigError


@dataclass
class OptimConfig:
    """The optimiser.

    Attributes:
        name: `sgd` (momentum, no Nesterov; weight decay as L2) or `adamw` (decoupled weight decay).
        lr: peak learning rate for a batch of `base_batch` images.
        base_batch: the number of images per step that `lr` was chosen for.
        lr_scaling: how the learning rate follows the real batch size: `linear`, `sqrt` or `none`.
        weight_decay: strength of the weight decay.
        decay: which parameters decay. `kernels`: convolutions except depthwise ones, dense layers and
            embedding tables (mobile reference); `depthwise`: depthwise ones too (multi-scale recipe); `all`
            parameters (multi-scale code).
        momentum: momentum of SGD, 0…1.
        betas: decay rates of AdamW's two moving averages.
        eps: added to the denominator of AdamW's steps.
        backbone_lr: learning rate of the backbone, as a fraction of the others'.
        clip_norm: gradients are scaled down to this norm; no clipping if None.
    """

    name: Literal["sgd", "adamw"] = "adamw"
    lr: float = 1e-3
    base_batch: int = 8
    lr_scaling: Literal["linear", "sqrt", "none"] = "sqrt"
    weight_decay: float = 1e-2
    decay: Literal["kernels", "depthwise", "all"] = "kernels"
    momentum: float = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    backbone_lr: float = 1.0
    clip_norm: float | None = None


def scaled_lr(config: OptimConfig, batch: int) -> float:
    """The peak learning rate for `batch` images a step.

    Raises:
        ConfigError: the configured rate is not positive.
    """
    if config.lr <= 0:
        raise ConfigError(f"`optim.lr={config.lr:g}`: the learning rate must be above 0")
    factor = batch / config.base_batch
    return config.lr * {"linear": factor, "sqrt": math.sqrt(factor), "none": 1.0}[config.lr_scaling]


def parameter_groups(
    model: nn.Module, weight_decay: float, decay: Literal["kernels", "depthwise", "all"] = "kernels"
) -> list[dict[str, Any]]:
    """Two groups: what decays (see `OptimConfig.decay`), and all else; frozen parameters are in neither.

    Args:
        model: a network, with its criterion where that learns too.
        weight_decay: of the first group.
        decay: what is in it.
    """
    kernels: set[int] = set()
    for module in model.modules():
        depthwise = (
            isinstance(module, nn.Conv2d) and module.groups > 1 and module.groups == module.in_channels
        )
        if isinstance(module, nn.Conv2d | nn.Linear | nn.Embedding) and (decay != "kernels" or not depthwise):
            kernels.add(id(module.weight))
    learnt = [p for p in model.parameters() if p.requires_grad]
    chosen = [p for p in learnt if decay == "all" or id(p) in kernels]
    rest = [p for p in learnt if not (decay == "all" or id(p) in kernels)]
    return [{"params": chosen, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]


def create_optimizer(module: nn.Module, config: OptimConfig, lr: float) -> torch.optim.Optimizer:
    """The configured optimiser over `parameter_groups`, the backbone's with a rate of their own.

    Args:
        module: a network, or a task with its network as `model`.
        config: the optimiser.
        lr: peak rate.
    """
    groups = parameter_groups(module, config.weight_decay, config.decay)
    if config.backbone_lr != 1:
        network: Any = getattr(module, "model", module)
        backbone = {id(p) for p in network.backbone.parameters()}
        groups = [
            {**group, "params": params, "lr": lr * factor}
            for group in groups
            for factor, inside in ((1.0, False), (config.backbone_lr, True))
            if (params := [p for p in group["params"] if (id(p) in backbone) is inside])
        ]
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=config.momentum)
    # One kernel for all, three to four times as fast on a CPU. On GPUs it would not go with clipping in fp16.
    fused = all(p.device.type == "cpu" for group in groups for p in group["params"])
    return torch.optim.AdamW(groups, lr=lr, betas=config.betas, eps=config.eps, fused=fused or None)


@dataclass
class ScheduleConfig:
    """The learning rate over the steps.

    Attributes:
        kind: `cosine` or `poly` down to `end`; `step`: multiplied by `gamma` at each of `milestones`; or
            `constant`.
        warmup: steps of linear warm-up from `warmup_start`.
        warmup_start: learning rate at step 0.
        end: last learning rate of `cosine` and `poly`.
        power: exponent of `poly`.
        milestones: for `step`: steps, or fractions of all steps if they are below 1.
        gamma: factor applied to the learning rate at each milestone of `step`.
    """

    kind: Literal["cosine", "poly", "step", "constant"] = "cosine"
    warmup: int = 500
    warmup_start: float = 0.0
    end: float = 0.0
    power: float = 0.9
    milestones: tuple[float, ...] = ()
    gamma: float = 0.1


def learning_rate(step: int, steps: int, peak: float, config: ScheduleConfig) -> float:
    """The learning rate at a step.

    The warm-up rises to the decay's value at its own end, and the decay runs unshifted from step 0, as in the
    reference.

    Args:
        step: 0…steps.
        steps: length of the whole schedule.
        peak: the decay's value at step 0.
        config: kind and warm-up.
    """
    if step < config.warmup:
        target = _decay(config.warmup, steps, peak, config)
        return config.warmup_start + step / config.warmup * (target - config.warmup_start)
    return _decay(step, steps, peak, config)


def highest_rate(steps: int, peak: float, config: ScheduleConfig) -> float:
    """The highest learning rate of a whole run, well below the peak where the warm-up takes most of it.

    Example:
        >>> highest_rate(300, 1e-3, ScheduleConfig(kind="cosine", warmup=500))
        0.0

    Args:
        steps: of the run.
        peak: the decay's value at step 0.
        config: kind and warm-up.
    """
    turns = 0, min(config.warmup, steps - 1)
    return max(learning_rate(step, steps, peak, config) for step in turns)


def _decay(step: int, steps: int, peak: float, config: ScheduleConfig) -> float:
    progress = min(step / max(steps, 1), 1.0)
    if config.kind == "cosine":
        return config.end + (peak - config.end) * (1 + math.cos(math.pi * progress)) / 2
    if config.kind == "poly":
        return (peak - config.end) * (1 - progress) ** config.power + config.end
    if config.kind == "step":
        return peak * config.gamma ** sum(step > (m * steps if m < 1 else m) for m in config.milestones)
    return peak
