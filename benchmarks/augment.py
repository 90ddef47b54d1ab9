"""What the augmentations of the published recipes cost: images/s of one loader process, as ratios.

Run: .venv/bin/python benchmarks/augment.py [--data FOLDER] [--split train] [--size 640]

Without `coco-panoptic-150` in MASKCONVER_SHARED/data, or --data, scenes are generated. Each variant makes
whole training examples (read, vary, normalise, targets); the reading alone is printed too. Times are CPU
seconds of one thread, medians over interleaved rounds, so that what else the machine does hardly matters.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from harness import SHARED, arguments, in_turn, machine, medians, table
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
    """Prints a table."""
    parser = arguments(__doc__)
    parser.add_argument("--data", default=str(SHARED / "data" / "coco-panoptic-150"))
    parser.add_argument("--split", default="train")
    parser.add_argument("--size", type=int, default=640)
    parser.add_argument("--images", type=int, default=24, help="examples a round")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        if not Path(args.data).is_dir():
            print(f"{args.data} is not here: generated scenes instead")
            synth.write_dataset(folder, "scenes", args.images, size=(480, 640), split=args.split)
            args.data = folder
        _run(args)
    print(f"\n{machine('numpy', 'scipy', 'torch', 'pillow')}")


def _run(args: argparse.Namespace) -> None:
    dataset = open_dataset(args.data, args.split)
    count = min(args.images, len(dataset))
    config = InputConfig(size=(args.size, args.size))

    def example(augment: AugmentConfig) -> Callable[[int], object]:
        data = DataConfig(augment=augment, targets=REFERENCE)
        made = TrainDataset(dataset, data, config, categories=dataset.categories, seed=0)
        return lambda k: made[k, k]

    def all_of(task: Callable[[int], object]) -> Callable[[], object]:
        return lambda: [task(k) for k in range(count)]

    tasks = {"reading alone": all_of(dataset.__getitem__)}
    tasks |= {name: all_of(example(augment)) for name, augment in VARIANTS.items()}
    times = medians(in_turn(tasks, args.rounds, warm=0))
    base = times[next(iter(VARIANTS))]
    print(f"{args.size} px, {count} images, one process, median of {args.rounds} rounds\n")
    row = table("", "images/s", "of the loader without")
    for name, value in times.items():
        row(name, f"{count / value:.1f}", f"{base / value:.2f}")


if __name__ == "__main__":
    main()
