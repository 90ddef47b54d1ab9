"""Generate a panoptic data set, for trying things out.

`scenes` are landscapes with overlapping things, stuff in islands, crowds and void; `cells` are nuclei under
a fluorescence microscope; `houses` are house fronts with the classes of the model `facade`. The same seed
gives the same files.

Example: maskconver data synth my_data --style cells --count 20 --size 256 256
"""

from __future__ import annotations

import json
import time
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from ...data.synth.write import STYLES, write_dataset


def configure(parser: ArgumentParser) -> None:
    """Arguments of `maskconver data synth`."""
    parser.add_argument("out", type=str, help="folder to write; created if needed")
    parser.add_argument("--style", choices=STYLES, default="scenes", help="what the images show")
    parser.add_argument("--count", type=int, default=100, help="number of images")
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        default=[256, 256],
        metavar=("H", "W"),
        help="height and width of the images in pixels",
    )
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same files")
    parser.add_argument(
        "--split", type=str, default="train", help="name of the split; different splits get different images"
    )
    parser.add_argument("--workers", type=int, default=1, help="number of processes")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing split of this name")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def run(args: Namespace) -> int:
    """Write the data set; returns the exit code."""
    from ..options import progress_bar

    start = time.perf_counter()
    with progress_bar("images", args.count) as advance:
        path = write_dataset(
            args.out,
            args.style,
            args.count,
            size=(args.size[0], args.size[1]),
            seed=args.seed,
            split=args.split,
            overwrite=args.overwrite,
            workers=args.workers,
            progress=advance,
        )
    figures: dict[str, Any] = {
        "panoptic_json": str(path),
        "images": args.count,
        "seconds": round(time.perf_counter() - start, 2),
    }
    if args.json:
        print(json.dumps(figures))
    else:
        print(f"{args.count} images in {figures['seconds']:.1f} s: {path}")
    return 0
