"""Compute panoptic quality from two COCO panoptic files, each a JSON file with a folder of PNGs.

The figures are those of the COCO evaluation. Images are paired by id.

Example: maskconver pq panoptic_val.json results/panoptic.json --per-class --processes 4
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

from ..core.malloc import keep_freed_memory
from ..errors import ConfigError
from ..metrics.files import FilesResult, panoptic_quality_files
from ..metrics.panoptic_quality import ClassQuality, GroupQuality
from .options import optional, plain_console, progress_bar, table

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace
    from rich.table import Table


def configure(parser: ArgumentParser) -> None:
    """Adds the arguments of `maskconver pq`."""
    add = parser.add_argument
    add("gt", type=str, help="COCO panoptic JSON file of the ground truth")
    add("pred", type=str, help="COCO panoptic JSON file of the predictions")
    optional(parser, "--gt-folder", str, "folder or zip file of its PNGs; beside it by default")
    optional(parser, "--pred-folder", str, "folder or zip file of its PNGs; beside it by default")
    add("--processes", type=int, default=1, help="number of processes")
    add("--per-class", action="store_true", help="also print one row per class that occurs")
    add("--json", action="store_true", help="print the figures as JSON, as fractions from 0 to 1")


def run(args: Namespace) -> int:
    """Runs `maskconver pq`; 0 when the figures could be computed."""
    if args.processes < 1:
        raise ConfigError(f"--processes {args.processes} is not possible; give 1 or more")
    with ExitStack() as bars:

        def progress(title: str, total: int) -> Callable[[], None]:
            return bars.enter_context(progress_bar(title, total))

        keep_freed_memory()
        result = panoptic_quality_files(
            args.gt,
            args.pred,
            args.gt_folder,
            pred_folder=args.pred_folder,
            processes=args.processes,
            progress=progress,
        )
    for warning in result.warnings:
        print(f"maskconver: warning: {warning}", file=sys.stderr)
    if args.json:
        print(json.dumps(result.quality.to_json(), indent=1))
    else:
        _print(result, args.per_class)
    return 0


def _print(result: FilesResult, per_class: bool) -> None:
    quality = result.quality
    groups = (("all", quality.all), ("things", quality.things), ("stuff", quality.stuff))
    console = plain_console()
    console.print(_table(["PQ", "SQ", "RQ", "classes"], [[n, *_percent(g), str(g.n)] for n, g in groups]))
    if per_class:
        rows = [
            [category.name, *_percent(row), str(row.tp), str(row.fp), str(row.fn)]
            for category, row in zip(result.categories, quality.per_class.values())
            if row.tp + row.fp + row.fn
        ]
        console.print(_table(["PQ", "SQ", "RQ", "TP", "FP", "FN"], rows))
    left_out = f", {result.unannotated} without annotation left out" if result.unannotated else ""
    rate = result.images / max(result.seconds, 1e-9)
    console.print(
        f"{result.images} images in {result.seconds:.1f} s ({rate:.0f} a second, "
        f"{result.decoding:.0%} of the work is decoding PNGs){left_out}"
    )


def _table(columns: list[str], rows: list[list[str]]) -> Table:
    made = table("", *columns)
    for row in rows:
        made.add_row(*row)
    return made


def _percent(row: GroupQuality | ClassQuality) -> list[str]:
    return ["–" if math.isnan(v) else f"{100 * v:.1f}" for v in (row.pq, row.sq, row.rq)]
