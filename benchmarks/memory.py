"""Peak memory of a training step at 640 px by the number of segments an image.

Run: .venv/bin/python benchmarks/memory.py

Each row runs in a fresh process: forward, losses, backward and optimiser step, twice, on noise with a
    generated
annotation. What is read is the highest resident memory the process ever had.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from maskconver.core.segments import SegmentTable
from maskconver.models import create_model
from maskconver.models.batch import Batch
from maskconver.models.maskconver.losses import LossConfig, MaskConverCriterion
from maskconver.training.augment.example import Example
from maskconver.training.loader import collate
from maskconver.training.targets import TargetConfig, assign_targets

UNIT = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes


def annotated(size: int, batch: int, segments: int, classes: int) -> Batch:
    """Noise on a square canvas, cut into `segments` things each by nearest seed point."""
    rng = np.random.default_rng(segments)
    examples = []
    for number in range(batch):
        seeds = rng.uniform(0, size, (segments, 2)).astype(np.float32)
        axis = np.arange(size, dtype=np.float32)
        ids = np.empty((size, size), np.int32)
        for y in range(size):  # a row at a time, so that making the data needs no memory to speak of
            distance = (seeds[:, :1] - y) ** 2 + (seeds[:, 1:] - axis) ** 2
            ids[y] = distance.argmin(0) + 1
        table = SegmentTable(
            np.arange(1, segments + 1, dtype=np.int32),
            rng.integers(0, classes, segments),
            np.zeros(segments, bool),
            np.zeros(segments, np.int64),
        )
        targets = assign_targets(ids, table, np.ones(classes, bool), TargetConfig(max_segments=segments))
        examples.append(Example(rng.standard_normal((3, size, size), np.float32), targets, number))
    return collate(examples)


def peak() -> float:
    """Highest resident memory of this process so far, GB.

    On Linux not of getrusage, which counts what the parent had before it became this process.
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT / 1e9


def measure(args: argparse.Namespace, segments: int) -> dict[str, float]:
    """Two training steps in this process."""
    torch.manual_seed(0)
    model = create_model(args.model, num_classes=133).train()
    optimizer = torch.optim.AdamW(model.parameters())
    batch = annotated(args.size, args.batch, segments, 133)
    criterion = MaskConverCriterion(model, LossConfig(mask_loss_stride=args.stride))
    before = peak()
    for _ in range(2):
        optimizer.zero_grad()
        terms = criterion(model, model(batch.images), batch)
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()
    return {"before": before, "peak": peak()}


def main() -> None:
    """Prints a table; with --child measures one row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="maskconver_mobile_640")
    parser.add_argument("--size", type=int, default=640, help="canvas, pixels")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--stride", type=int, default=LossConfig().mask_loss_stride, help="of the mask loss")
    parser.add_argument("--segments", type=int, nargs="+", default=[10, 100, 400])
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child is not None:
        print(json.dumps(measure(args, args.child)))
        return
    options = [f"--{k}={getattr(args, k)}" for k in ("model", "size", "batch", "stride")]
    rows = []
    for segments in args.segments:
        command = [sys.executable, __file__, *options, f"--child={segments}"]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        rows.append((segments, json.loads(out.splitlines()[-1])))
    print(f"`{args.model}`, {args.size} px, batch {args.batch}, mask loss at stride {args.stride}:\n")
    print("| segments an image | peak of the process, GB | ratio | of which the steps, GB | ratio |")
    print("|---|---|---|---|---|")
    first = rows[0][1]
    for segments, row in rows:
        step, first_step = row["peak"] - row["before"], first["peak"] - first["before"]
        print(
            f"| {segments} | {row['peak']:.2f} | {row['peak'] / first['peak']:.2f} "
            f"| {step:.2f} | {step / first_step:.2f} |"
        )
    packages = ", ".join(f"{p} {version(p)}" for p in ("torch", "numpy"))
    print(f"\n{platform.machine()}, {os.cpu_count()} cores, {platform.system()}, ", end="")
    print(f"Python {platform.python_version()}, {packages}")


if __name__ == "__main__":
    main()
