"""Target building as a share of a CPU training step, and what the loader gives beside what the step takes.

Run: .venv/bin/python benchmarks/targets.py [--data DIR]

DIR is a COCO panoptic data set; without it, scenes are generated. Batches of 8 crops at 256 px go through
`maskconver_mobile_256`; islands and boxes are found in the loader (`assign_targets`), heatmaps on the device
(`center_heatmaps`). Loader and step take turns. Times are CPU seconds of one thread, so that what else the
machine does hardly matters.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import maskconver.models.maskconver.targets as targets_module
import maskconver.training.augment.example as train_transforms
from harness import arguments, machine, table
from maskconver.data.open import open_dataset
from maskconver.data.synth.write import write_dataset
from maskconver.models import create_model
from maskconver.models.maskconver.losses import LossConfig, MaskConverCriterion
from maskconver.training.augment.example import AugmentConfig, train_example
from maskconver.training.loader import collate
from maskconver.training.optim import OptimConfig, create_optimizer
from maskconver.training.targets import TargetConfig

SECONDS: dict[str, list[float]] = defaultdict(list)


def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, its CPU time noted under a name."""

    def call(*args: Any, **kwargs: Any) -> Any:
        start = time.process_time()
        result = function(*args, **kwargs)
        SECONDS[name].append(time.process_time() - start)
        return result

    return call


def main() -> None:
    """Prints a table."""
    parser = arguments(__doc__)
    parser.add_argument("--data", help="folder of a COCO panoptic data set; generated scenes without it")
    parser.add_argument("--split", default="train")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--islands", type=int, default=TargetConfig().islands, help="of a stuff class")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    folder = tempfile.TemporaryDirectory()
    if args.data is None:
        write_dataset(folder.name, "scenes", 40, size=(480, 640), split=args.split)
    dataset = open_dataset(args.data or folder.name, args.split)
    model = create_model("maskconver_mobile_256", categories=dataset.categories).train()
    optimizer = create_optimizer(model, OptimConfig(), 1e-3)
    augment, targets = AugmentConfig(scale=(0.5, 1.5)), TargetConfig(islands=args.islands)
    train_transforms.assign_targets = timed("assign", train_transforms.assign_targets)
    criterion = MaskConverCriterion(model, LossConfig())
    targets_module.center_heatmaps = timed("heatmaps", targets_module.center_heatmaps)

    def load(index: int) -> Any:
        sample = dataset[index % len(dataset)]
        is_thing = dataset.categories.is_thing
        rng = np.random.default_rng(index)
        return train_example(sample, model.input, augment, targets=targets, is_thing=is_thing, rng=rng)

    def step(batch: Any) -> None:
        optimizer.zero_grad()
        terms = criterion(model, model(batch.images), batch)
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()

    load, step = timed("load", load), timed("step", step)
    segments = []
    for number in range(args.steps + 1):
        if number == 1:  # the first round only warms up
            SECONDS.clear()
        batch = collate([load(number * args.batch + i) for i in range(args.batch)])
        segments.append(len(batch.labels) / args.batch)
        step(batch)
    per_image = {k: statistics.median(SECONDS[k]) for k in ("assign", "load")}
    per_step = {k: statistics.median(SECONDS[k]) for k in ("heatmaps", "step")}
    # Means for the parts, whose cost depends on the image; a batch meets the mean of its images.
    assign = statistics.mean(SECONDS["assign"]) * args.batch
    print(
        f"{len(dataset)} images of {args.split}, {statistics.mean(segments):.1f} targets per image, ", end=""
    )
    print(f"batch {args.batch}, 256 px, one thread:\n")
    row = table("", "CPU ms per batch", "share of the step")
    row("training step", f"{per_step['step'] * 1e3:.0f}", 1)
    in_all = assign + per_step["heatmaps"]
    for name, value in (
        ("islands and boxes (loader)", assign),
        ("heatmaps (device)", per_step["heatmaps"]),
        ("**targets in all**", in_all),
    ):
        row(name, f"{value * 1e3:.1f}", f"{value / per_step['step']:.3f}")
    loader, stepped = 1 / per_image["load"], args.batch / per_step["step"]
    print(f"\nloader, one process: {loader:.0f} images/s; step: {stepped:.1f} images/s; ", end="")
    print(f"one worker feeds {loader / stepped:.1f} such steps")
    print(f"\n{machine('torch', 'numpy', 'scipy')}")


if __name__ == "__main__":
    main()
