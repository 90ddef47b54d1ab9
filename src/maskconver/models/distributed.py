"""The one collective the losses need."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Number of training processes; 1 without distributed training."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_processes(value: Tensor) -> Tensor:
    """The sum of a scalar over all processes, without gradient; the value itself in a single process.

    A loss divided by (this sum / `world_size()`) is normalised over the whole batch once gradients are
    averaged over processes.
    """
    value = value.detach()
    if world_size() > 1:
        value = value.clone()
        dist.all_reduce(value)
    return value
