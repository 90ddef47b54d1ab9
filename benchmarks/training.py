"""A training step of a recipe on a CPU: images/s, its parts, and what each way to make it faster gives.

Run: .venv/bin/python benchmarks/training.py --config nuclei --data DSB2018
     .venv/bin/python benchmarks/training.py --config facade --data FACADE --threads 2 --operators 12

A step is forward pass, losses, backward pass, clipping and the optimiser; all ways see the same batches of
the recipe and take turns. Of what `maskconver train` does, the others leave one thing out: oneDNN for 1×1
convolutions on one thread (`use_onednn`), the backward pass of dilated depthwise convolutions
(`DilatedDepthwise`), the fused AdamW, or all of them. Processor time. What is in the recipe can be changed as
for `maskconver train`, e.g. --data.batch_size=2.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import torch
from jsonargparse import ArgumentParser
from torch import nn

from harness import arguments, in_turn, machine, table
from maskconver.cli import train
from maskconver.models import layers
from maskconver.models.batch import Batch
from maskconver.models.registry import build_model
from maskconver.training.config import TrainConfig
from maskconver.training.loader import SegmentationData
from maskconver.training.task import SegmentationTask

PARTS = ("forward", "losses", "backward", "clipping", "optimiser")
ALL = {"onednn", "depthwise", "fused"}
WAYS: dict[str, tuple[set[str], bool]] = {
    "PyTorch's own ways": (set(), False),
    "without oneDNN for 1×1 convolutions": (ALL - {"onednn"}, False),
    "without our backward pass of dilated depthwise convolutions": (ALL - {"depthwise"}, False),
    "without fused AdamW": (ALL - {"fused"}, False),
    "as `maskconver train` does it": (ALL, False),
    "the same with `--precision bf16`": (ALL, True),
}


def recipe(words: list[str]) -> TrainConfig:
    """The recipe that the words of a command line make, as `maskconver train` reads them."""
    parser = ArgumentParser(exit_on_error=False)
    train.configure(parser)
    return train.config_of(parser.instantiate(parser.parse_args(train.prepare(parser, words))))


class Steps:
    """Training steps of one network in different ways.

    Attributes:
        parts: by way, processor seconds of the parts of each step.
    """

    def __init__(self, config: TrainConfig, batches: int) -> None:
        network = config.model.config
        data = SegmentationData(config.data, network.input, batches * config.step_images, seed=0)
        model = build_model(
            network, len(data.categories), data.categories, name=config.model.name, training=config.training
        )
        layout = torch.channels_last if config.channels_last else torch.contiguous_format
        self.task = SegmentationTask(model.to(memory_format=layout), config).train()  # type: ignore[call-overload]
        self.batches = [
            replace(batch, images=batch.images.contiguous(memory_format=layout))
            for batch in data.train_dataloader()
        ]
        self.parts: dict[str, list[list[float]]] = {name: [] for name in WAYS}
        self.config = config
        self.optimizer = self.task.optimizer(1e-6)
        layers.use_onednn(self.task)
        self.pointwise: list[Any] = [
            m
            for m in self.task.modules()
            if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1) and m.dilation == (2, 2)
        ]

    def way(self, name: str) -> Callable[[], None]:
        """A step on every batch, in one of the ways."""
        chosen, bf16 = WAYS[name]

        def call() -> None:
            for convolution in self.pointwise:
                convolution.dilation = (2, 2) if "onednn" in chosen else (1, 1)
            for group in self.optimizer.param_groups:
                group["fused"] = "fused" in chosen
            with ExitStack() as stack:
                if "depthwise" not in chosen:
                    stack.enter_context(mock.patch.object(layers, "trains_on_cpu", lambda x: False))
                for batch in self.batches:
                    self.parts[name].append(self.step(batch, bf16))

        return call

    def step(self, batch: Batch, bf16: bool) -> list[float]:
        """Processor seconds of the parts of one step."""
        task, times = self.task, [time.process_time()]
        criterion: Any = task.criterion

        def done() -> None:
            times.append(time.process_time())

        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            found = task.model(batch.images)
            done()
            terms = criterion(task.model, found, batch, generator=torch.Generator().manual_seed(0))
            total = torch.stack(list(terms.values())).sum()
        done()
        total.backward()
        done()
        if self.config.optim.clip_norm:
            nn.utils.clip_grad_norm_(task.parameters(), self.config.optim.clip_norm)
        done()
        self.optimizer.step()
        self.optimizer.zero_grad()
        done()
        return np.diff(times).tolist()


def operators(steps: Steps, count: int) -> None:
    """Prints the operators of a step that take the most time."""
    from torch.profiler import ProfilerActivity, profile

    steps.way("as `maskconver train` does it")()
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        steps.step(steps.batches[0], False)
    found = sorted(seen.key_averages(), key=lambda e: -e.self_cpu_time_total)
    whole = sum(e.self_cpu_time_total for e in found)
    row = table("operator", "calls", "share of a step")
    for entry in found[:count]:
        row(f"`{entry.key}`", entry.count, f"{entry.self_cpu_time_total / whole:.1%}")


def main() -> None:
    """Prints the tables."""
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=2, help="steps of a round")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--operators", type=int, default=0, help="so many rows of the profiler")
    args, words = parser.parse_known_args()
    torch.set_num_threads(args.threads)
    config = recipe([*words, "--data.workers=0"])
    steps = Steps(config, args.batches)
    in_turn({name: steps.way(name) for name in WAYS}, args.rounds)
    print(f"{config.step_images} images of {tuple(steps.batches[0].images.shape[2:])} px a step:\n")
    row = table("way", "images/s", "relative", *(f"{part}, ms" for part in PARTS))
    first = None
    for name, parts in steps.parts.items():
        counted = np.array(parts[args.batches :])  # the first round warms up
        median = np.median(counted.sum(1))
        first = first or median
        milliseconds = 1000 * np.median(counted, axis=0)
        cells = [f"{ms:.0f}" for ms in milliseconds]
        row(name, f"{config.step_images / median:.2f}", f"{first / median:.2f}", *cells)
    if args.operators:
        print()
        operators(steps, args.operators)
    where = "1 thread" if args.threads == 1 else f"{args.threads} threads"
    print(f"\n{machine('torch', where=where)}")


if __name__ == "__main__":
    main()
