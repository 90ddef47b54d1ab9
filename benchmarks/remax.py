"""A training step of kMaX-DeepLab with and without ReMaX: time, memory, and the share of matching.

Run: .venv/bin/python benchmarks/remax.py [--models remax_b remax_t …] [--size 321]

One network of 133 classes; plain (no ReMask, no ReClass, sigmoid masks), with ReMaX's full ASPPs and with
separable ones take turns, step by step, on generated scenes: forward pass, losses, backward pass, AdamW.
Times are the best of the steps, so that what else the machine does matters less; memory is the highest
resident memory of a process of its own after two steps. With 1024 sampled pixels at 321 px the instance
discrimination has about the share of a step that it has with the published 4096 at 1281 px.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from harness import arguments, fresh, in_turn, machine, peak, table
from maskconver.data.synth.write import synthesize
from maskconver.models import create_model
from maskconver.models.batch import Batch
from maskconver.models.kmax.losses import KMaXCriterion, KMaXLossConfig
from maskconver.models.kmax.variants import relaxed
from maskconver.training.augment.example import Example
from maskconver.training.loader import collate
from maskconver.training.targets import TargetConfig, assign_targets

CLASSES, THINGS = 133, 5
ARMS: dict[str, dict[str, Any]] = {
    "plain": {"remask_layers": 0, "eta": 0.0},
    "full ASPP": {"aspp": "full"},
    "separable ASPP": {"aspp": "separable"},
}


def scenes(size: int, batch: int) -> Batch:
    """Generated images with their targets."""
    examples = []
    is_thing = np.arange(CLASSES) < THINGS
    for number in range(batch):
        sample = synthesize("scenes", (size, size), number)
        targets = assign_targets(sample.ids, sample.segments, is_thing, config=TargetConfig(stuff="global"))
        image = (sample.image.transpose(2, 0, 1) / 127.5 - 1).astype(np.float32)
        examples.append(Example(image, targets, number))
    return collate(examples)


class Trainer:
    """Steps of one arm on a network."""

    def __init__(self, model: Any, arm: str, samples: int) -> None:
        remax = replace(relaxed().remax, **ARMS[arm])
        loss = KMaXLossConfig(instance_samples=samples, remax=remax)
        self.model, self.criterion = model, KMaXCriterion(model, loss)
        self.optimizer = torch.optim.AdamW([*model.parameters(), *self.criterion.parameters()], 1e-4)

    def step(self, batch: Batch) -> None:
        """One training step."""
        images = batch.images.contiguous(memory_format=torch.channels_last)
        terms = self.criterion(self.model, self.model(images), batch)
        self.optimizer.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        self.optimizer.step()


def network(name: str) -> Any:
    """In training, in the memory layout of training."""
    torch.manual_seed(0)
    model: Any = create_model(name, num_classes=CLASSES)
    return model.train().to(memory_format=torch.channels_last)


def memory(name: str, arm: str, size: int, batch: int, samples: int, threads: int) -> float:
    """The peak of this process after two steps, GB."""
    torch.set_num_threads(threads)
    trainer = Trainer(network(name), arm, samples)
    images = scenes(size, batch)
    for _ in range(2):
        trainer.step(images)
    return peak()


def main() -> None:
    """Prints a table."""
    parser = arguments(__doc__)
    parser.add_argument("--models", nargs="+", default=["remax_b", "remax_t", "remax_s", "remax_m"])
    parser.add_argument("--size", type=int, default=321, help="canvas, pixels")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=4, help="timed steps of each arm, after one")
    parser.add_argument("--samples", type=int, default=1024, help="pixels of the instance discrimination")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-memory", action="store_true", help="times only")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    batch = scenes(args.size, args.batch)
    print(f"{args.size} px, batch {args.batch}, {args.samples} samples, {args.threads} threads; ", end="")
    print("step in seconds, peak in GB\n")
    row = table("model", "arm", "step", "to plain", "matching's share", "peak", "to plain")
    for name in args.models:
        model = network(name)
        trainers = {arm: Trainer(model, arm, args.samples) for arm in ARMS}
        steps = {arm: partial(trainer.step, batch) for arm, trainer in trainers.items()}
        times = in_turn(steps, args.steps, clock=time.perf_counter)
        del model
        first: tuple[float, float] | None = None
        for arm, trainer in trainers.items():
            step = min(times[arm])
            share = trainer.criterion.matching_seconds / (args.steps + 1) / statistics.mean(times[arm])
            memory_of = partial(fresh, memory, name, arm, args.size, args.batch, args.samples, args.threads)
            most = float("nan") if args.no_memory else memory_of()
            first = first or (step, most)
            ratios = f"{step / first[0]:.2f}", f"{most / first[1]:.2f}"
            row(name, arm, f"{step:.2f}", ratios[0], f"{share:.2%}", f"{most:.2f}", ratios[1])
    print(f"\n{machine('torch', 'scipy')}")


if __name__ == "__main__":
    main()
