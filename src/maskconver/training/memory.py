"""Memory that a training uses and that is left, and the batch size that fits."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..errors import ConfigError
from ..models.registry import build_model
from .config import TrainConfig
from .loader import SegmentationData

GB = 1e9
TRIED = 2  # images of the step that is measured on a CPU, and of the first on a GPU
MOST = {"cpu": 16, "cuda": 128}
SHARE = {
    "cpu": 0.25,
    "cuda": 0.9,
}  # of the memory: on a CPU of what is free and for what is kept for the gradients


def used_memory(device: torch.device) -> float:
    """GB that PyTorch held on a GPU at most so far; on a CPU, GB of the process now."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GB
    if device.type == "mps":
        return torch.mps.current_allocated_memory() / GB
    statm = Path("/proc/self/statm")
    if statm.is_file():
        return int(statm.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE") / GB
    with suppress(ImportError):  # there is none on Windows
        import resource

        unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GB
    return float("nan")


def free_memory() -> float:
    """Bytes that this process can still take, by the system and by the limit of its container.

    Raises:
        ConfigError: this system does not tell.
    """
    found = []
    with suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found.append(1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]))
    group = Path("/sys/fs/cgroup")
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        with suppress(OSError, ValueError):  # "max" is no limit
            found.append(int((group / limit).read_text()) - int((group / used).read_text()))
    if not found:
        raise ConfigError("`data.batch_size=auto` cannot tell how much memory is free here; give a number")
    return min(found)


def fitting_batch_size(config: TrainConfig) -> int:
    """The largest power of two, 2 or more, of images that fit in memory at a time.

    On a GPU steps of twice as many images are run until the next would not fit, as Lightning does. On a CPU
    one step is run and what it keeps for its gradients is counted; a quarter of the free memory may be used.

    Args:
        config: of the run; no more than its training images, and 16 on a CPU or 128 on a GPU.

    Raises:
        ConfigError: several devices, or this system does not tell how much memory it has.
    """
    if config.processes > 1:
        raise ConfigError("`data.batch_size=auto` is measured on one device; give a number for several")
    kind = config.device if config.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    if kind == "mps":
        raise ConfigError("`data.batch_size=auto` works on `cpu` and `cuda`; give a number")
    step, images = _step(config, torch.device(kind))
    most = max(min(MOST[kind], images), TRIED)
    if kind == "cpu":
        fits = int(SHARE["cpu"] * free_memory() / max(_kept(step) / TRIED, 1))
        return 2 ** (max(min(fits, most), TRIED).bit_length() - 1)
    total = torch.cuda.get_device_properties(0).total_memory
    size = TRIED
    while True:
        torch.cuda.reset_peak_memory_stats()
        try:
            step(size)
        except torch.cuda.OutOfMemoryError:
            size //= 2
            break
        if 2 * size > most or 2 * torch.cuda.max_memory_allocated() > SHARE["cuda"] * total:
            break
        size *= 2
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return max(size, 1)


def _step(config: TrainConfig, device: torch.device) -> tuple[Callable[[int], Any], int]:
    """What runs a step of so many images, without the optimiser, and the number of training images."""

    def data(size: int) -> SegmentationData:
        given = replace(config.data, batch_size=size, workers=0)
        return SegmentationData(
            given, config.model.config.input, size, seed=config.seed, overfit=config.overfit
        )

    first = data(TRIED)
    model = build_model(
        config.model.config,
        len(first.categories),
        first.categories,
        name=config.model.name,
        training=config.training,
    ).to(device)
    targets = config.data.targets
    criterion: Any = model.family.criterion(
        model, config.loss, min_iou=targets.min_iou, gaussian=targets.gaussian
    )
    criterion = criterion.to(device)
    model.train()
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(config.precision)

    def step(size: int) -> None:
        batch = next(iter(data(size).train_dataloader())).to(device)
        generator = torch.Generator(device).manual_seed(config.seed)
        with torch.autocast(device.type, kind, enabled=kind is not None):
            terms = criterion(model, model(batch.images), batch, generator=generator)
            loss = torch.stack(list(terms.values())).sum()
        loss.backward()
        model.zero_grad(set_to_none=True)

    return step, len(first.train)


def _kept(step: Callable[[int], Any]) -> int:
    """Bytes of all tensors that a step of `TRIED` images keeps for its gradients."""
    sizes: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step(TRIED)
    return sum(sizes.values())
