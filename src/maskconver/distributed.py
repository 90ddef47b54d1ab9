"""The one collective the losses need."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor


def mean_over_processes(value: Tensor) -> Tensor:
    """The mean of a scalar over all processes, without gradient; the value itself in a single process.

    Losses divide by it so that, after gradients are averaged over processes, the whole batch is normalised as one.
    """
    value = value.detach()
    if dist.is_available() and dist.is_initialized():
        value = value.clone()
        dist.all_reduce(value)
        value /= dist.get_world_size()
    return value
