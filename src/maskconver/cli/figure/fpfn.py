"""Draw how the mask loss of training runs is split between false positives and false negatives.

The figure is a histogram of `train/fp_fn` in each run's metrics.csv, which trainings of kMaX-DeepLab and
ReMaX write every `log_every` steps: the loss of false positives divided by that of false negatives (ReMaX,
Figure 1). For runs with ReMask, a line shows the same masks before they are relaxed.

Example: maskconver figure fpfn runs/kmax runs/remax --png fpfn.png
"""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...analysis.training import read_metrics
from ...errors import DataError
from . import add_png, plot, require_png, write

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

SEEN, BEFORE = "train/fp_fn", "train/fp_fn_unrelaxed"


def configure(parser: ArgumentParser) -> None:
    """Adds the arguments of `maskconver figure fpfn`."""
    parser.add_argument("runs", nargs="+", type=str, help="folders of training runs")
    parser.add_argument(
        "--skip", type=float, default=0.0, help="leave out this share of each run, from its start, 0 to 1"
    )
    add_png(parser, "fpfn.png")


def run(args: Namespace) -> int:
    """Runs `maskconver figure fpfn`."""
    path = require_png(args.png)
    if not 0 <= args.skip < 1:
        raise DataError(f"--skip {args.skip:g}: it must be from 0 to below 1")
    found = {name: (ratios(Path(name), SEEN), ratios(Path(name), BEFORE)) for name in args.runs}
    for name, (seen, _) in found.items():
        if not seen:
            raise DataError(
                f"{name} has no values of {SEEN}; only runs of kMaX-DeepLab and ReMaX log them, "
                "from their step log_every on"
            )
    drawn: list[tuple[str, list[float], dict[str, Any]]] = []
    for number, (name, (seen, before)) in enumerate(found.items()):
        for what, values, style in (
            ("", seen, {"alpha": 0.5}),
            (", before relaxing", before, {"histtype": "step"}),
        ):
            last = max((step for step, _ in values), default=0)
            if kept := [math.log10(v) for step, v in values if step >= args.skip * last]:
                label = f"{name}{what}: median {10 ** statistics.median(kept):.3g}"
                drawn.append((label, kept, {"color": f"C{number}", **style}))
                print(label)
    figure, axes = plot(7, 4)
    everything = [v for _, kept, _ in drawn for v in kept]
    span = min(everything) - 0.05, max(everything) + 0.05
    for label, kept, more in drawn:
        shares = [1 / len(kept)] * len(kept)
        axes.hist(kept, 40, range=span, weights=shares, label=label, **more)
    axes.set_xlabel("log10 (false-positive loss / false-negative loss)")
    axes.set_ylabel("share of the logged steps")
    axes.legend(fontsize=8)
    write(figure, path)
    return 0


def ratios(folder: Path, column: str) -> list[tuple[int, float]]:
    """(step, value) of a column in the metrics of a run, where it is above 0; see `read_metrics`."""
    return [(s, v) for s, v in read_metrics(folder).get(column, []) if math.isfinite(v) and v > 0]
