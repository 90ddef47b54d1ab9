"""Time of a training step, by part, and of loading its batch.

Run: .venv/bin/python benchmarks/train_step.py --config nuclei --data DIR --threads 1
     (any field of the recipe may follow, e.g. --channels_last false --model.head_kernel 5)

Times are CPU seconds of this process (user and system), so that other work on the machine disturbs them less
than it does a clock; with one thread on an idle machine they are the wall time. The least of --repeats.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from jsonargparse import ArgumentParser

from harness import machine, table
from maskconver.cli.train import config_of, configure, prepare
from maskconver.models.registry import build_model
from maskconver.training.loader import SegmentationData
from maskconver.training.optim import create_optimizer


def seconds(function: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of a call, and its result."""
    before = time.process_time()
    result = function()
    return time.process_time() - before, result


def main() -> None:
    """Prints one row of a table."""
    parser = ArgumentParser(description="CPU seconds of a training step of a recipe.")
    parser.add_argument("--repeats", type=int, default=5, help="steps that are timed, after one that is not")
    configure(parser)
    args = parser.instantiate(parser.parse_args(prepare(parser, sys.argv[1:])))
    config = config_of(args)
    torch.set_num_threads(config.threads or torch.get_num_threads())
    torch.manual_seed(0)
    config.data.workers = 0
    size, network = config.data.batch_size, config.model.config
    data = SegmentationData(config.data, network.input, (args.repeats + 1) * size, seed=config.seed)
    model: Any = build_model(
        network, len(data.categories), data.categories, name=config.model.name, training=config.training
    )
    if config.channels_last:
        model = model.to(memory_format=torch.channels_last)
    model.train()
    targets = config.data.targets
    criterion = model.family.criterion(model, config.loss, min_iou=targets.min_iou, gaussian=targets.gaussian)
    optimizer = create_optimizer(model, config.optim, config.optim.lr)
    batches = iter(data.train_dataloader())
    rows = []
    for _ in range(args.repeats + 1):
        load, batch = seconds(lambda: next(batches))
        images = batch.images
        if config.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        forward, output = seconds(lambda images=images: model(images))
        loss, total = seconds(
            lambda output=output, batch=batch: sum(criterion(model, output, batch).values())
        )
        backward, _ = seconds(total.backward)
        step, _ = seconds(optimizer.step)
        optimizer.zero_grad()
        rows.append((forward + loss + backward + step, forward, loss, backward, step, load))
    best = min(rows[1:])
    print(f"{config.model.name}, {size} images a step\n")
    row = table("images/s", "step, s", "forward, s", "loss, s", "backward, s", "optimiser, s", "loading, s")
    row(f"{size / best[0]:.2f}", *(f"{v:.2f}" for v in best))
    print(f"\n{machine('torch', where=f'{torch.get_num_threads()} threads')}")


if __name__ == "__main__":
    main()
