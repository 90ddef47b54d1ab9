"""Show a training run on one HTML page: curves, what the network saw, predictions, the recipe.

The page opens in any browser, also without a network. A training writes it at each validation, too, as
report.html in its folder.

Example: maskconver report runs/mine --out mine.html
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace


def configure(parser: ArgumentParser) -> None:
    """Adds the arguments of `maskconver report`."""
    parser.add_argument("run", type=str, help="folder of a training run")
    parser.add_argument(
        "--out",
        type=str | None,
        default=None,
        help="the page that is written; report.html in the run by default",
    )


def run(args: Namespace) -> int:
    """Runs `maskconver report`."""
    from ..analysis.training import write_run_report
    from .options import require_ending

    require_ending("out", args.out, ".html", ".htm")

    print(f"saved {write_run_report(Path(args.run), Path(args.out) if args.out else None)}")
    return 0
