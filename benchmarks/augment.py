"""What the augmentations of the published recipes cost: images/s of one loader process, as ratios.

    python benchmarks/augment.py [--data ../shared/data/coco-panoptic-150] [--split train] [--size 640]

Each variant makes whole training examples (read, vary, normalise, targets); the reading alone is printed
too. Times are CPU seconds of one thread, medians over interleaved rounds, so that what else the machine does
hardly matters.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch

from maskconver.core.config import InputConfig
from maskconver.data import open_dataset
from maskconver.data.synth import write as synth
from maskconver.training.augment.color import ColorConfig
from maskconver.training.augment.copy_paste import CopyPasteConfig
from maskconver.training.augment.example import AugmentConfig
from maskconver.training.loader import DataConfig, TrainDataset
from maskconver.training.targets import TargetConfig

REFERENCE = TargetConfig(islands=1, islands_dilation="reference", islands_min_area=1024, ignore_void=False)
PASTE = CopyPasteConfig(probability=1.0, scale=(0.05, 2.9), pasted_scale=(0.025, 1.5))
VARIANTS = {
    "flip and scale 0.1…1.9": AugmentConfig(scale=(0.1, 1.9)),
    "+ AutoAugment": AugmentConfig(scale=(0.1, 1.9), autoaugment="panoptic"),
    "+ colour jitter": AugmentConfig(
        scale=(0.1, 1.9), color=ColorConfig(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.02)
    ),
    "copy-paste": AugmentConfig(copy_paste=PASTE),
    "copy-paste + AutoAugment": AugmentConfig(copy_paste=PASTE, autoaugment="panoptic"),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", default="../shared/data/coco-panoptic-150")
    parser.add_argument("--split", default="train")
    parser.add_argument("--size", type=int, default=640)
    parser.add_argument("--images", type=int, default=24, help="examples a round")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    versions = ", ".join(f"{name} {version(name)}" for name in ("numpy", "scipy", "torch", "pillow"))
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {versions}")
    with tempfile.TemporaryDirectory() as folder:
        if not Path(args.data).is_dir():
            print(f"{args.data} is not here: generated scenes instead")
            synth.write_dataset(folder, "scenes", args.images, (480, 640), split=args.split)
            args.data = folder
        _run(args)


def _run(args: argparse.Namespace) -> None:
    dataset = open_dataset(args.data, args.split)
    count = min(args.images, len(dataset))
    config = InputConfig(size=(args.size, args.size))

    def example(augment: AugmentConfig) -> Callable[[int], object]:
        data = DataConfig(augment=augment, targets=REFERENCE)
        made = TrainDataset(dataset, data, config, dataset.categories.is_thing, seed=0)
        return lambda k: made[k, k]

    tasks: dict[str, Callable[[int], object]] = {"reading alone": dataset.__getitem__}
    tasks |= {name: example(augment) for name, augment in VARIANTS.items()}
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(args.rounds):
        for name, task in tasks.items():
            start = time.process_time()
            for k in range(count):
                task(k)
            seconds[name].append((time.process_time() - start) / count)
    times = {name: statistics.median(values) for name, values in seconds.items()}
    base = times[next(iter(VARIANTS))]
    print(f"{args.size} px, {count} pictures, one process, median of {args.rounds} rounds")
    print(f"| {'':26} | images/s | of the loader without |")
    print("|---|---|---|")
    for name, value in times.items():
        print(f"| {name:26} | {1 / value:8.1f} | {base / value:.2f} |")


if __name__ == "__main__":
    main()
