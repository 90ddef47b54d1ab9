"""Time of a training step, by part, and of loading its batch.

Run: .venv/bin/python benchmarks/train_step.py --config nuclei --data DIR --threads 1
     (any field of the recipe may follow, e.g. --channels_last false --model.head_kernel 5)

Times are CPU seconds of this process (user and system), so that other work on the machine disturbs them less
than it does a clock; with one thread on an idle machine they are the wall time. The least of --repeats.
"""

from __future__ import annotations

import platform
import resource
import sys
from collections.abc import Callable
from typing import Any

import torch
from jsonargparse import ArgumentParser
from maskconver.data.datamodule import SegmentationData
from maskconver.training.criterion import create_criterion

from maskconver.cli.train import prepare
from maskconver.models import create_model
from maskconver.training.config import TrainConfig, overrides
from maskconver.training.optim import create_optimizer
from maskconver.training.run import _input


def seconds(function: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of a call, and its result."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    result = function()
    after = resource.getrusage(resource.RUSAGE_SELF)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime, result


def main() -> None:
    """Prints one row of a table."""
    parser = ArgumentParser(description="CPU seconds of a training step of a recipe.")
    parser.add_argument("--config", action="config", help="YAML recipe, or the name of a shipped one")
    parser.add_argument("--repeats", type=int, default=5, help="steps that are timed, after one that is not")
    parser.add_class_arguments(TrainConfig, nested_key=None)
    args = parser.instantiate_classes(parser.parse_args(prepare(sys.argv[1:])))
    config = TrainConfig(**{k: v for k, v in vars(args).items() if k not in ("config", "repeats")})
    torch.set_num_threads(config.threads or torch.get_num_threads())
    torch.manual_seed(0)
    config.data.workers = 0
    size = config.data.batch_size
    data = SegmentationData(config.data, _input(config), (args.repeats + 1) * size, config.seed)
    model: Any = create_model(config.model.name, categories=data.categories, **overrides(config.model))  # type: ignore[attr-defined]
    if config.channels_last:
        model = model.to(memory_format=torch.channels_last)
    model.train()
    criterion = create_criterion(model, config)
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
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, {size} images a step")
    print("| images/s | step, s | forward, s | loss, s | backward, s | optimiser, s | loading, s |")
    print("|---|---|---|---|---|---|---|")
    print(f"| {size / best[0]:.2f} | {' | '.join(f'{v:.2f}' for v in best)} |")


if __name__ == "__main__":
    main()
