"""List every defect of a data set, and the figures you need before training.

Exit code 0: no defects; 1: defects were found; 2: there is nothing to check.

Example: maskconver data check my_data --split val
"""

from __future__ import annotations

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import ExitStack

from jsonargparse import ArgumentParser, Namespace

from ...data.check.gallery import write_gallery
from ...data.check.run import Report, SplitReport, check_dataset, proposals_for
from ...io.images import MAX_PIXELS
from ...io.panoptic_rows import Defect
from ..options import add_data_paths, data_paths, plain_console, progress_bar, require_ending, table


def configure(parser: ArgumentParser) -> None:
    """Arguments of `maskconver data check`."""
    parser.add_argument(
        "data", type=str, nargs="?", help="folder of the data set, or annotations of any format to convert"
    )
    parser.add_argument("--from", type=str, dest="from_format", help="format of the annotations to convert")
    parser.add_argument("--split", type=str, help="check only this split; all by default")
    add_data_paths(parser)
    parser.add_argument("--max-segments", type=int, help="also report images with more segments than this")
    parser.add_argument(
        "--max-pixels", type=int, default=MAX_PIXELS, help="refuse images with more pixels than this"
    )
    parser.add_argument("--headers-only", action="store_true", help="do not decode the images; much faster")
    parser.add_argument(
        "--annotations-only", action="store_true", help="check only the JSON; open neither images nor PNGs"
    )
    parser.add_argument(
        "--group",
        type=str,
        help="regular expression for image names: those with the same text in ( ) must be in one split",
    )
    parser.add_argument("--gallery", type=str, help="draw examples of the defects into this PNG or JPEG file")
    parser.add_argument(
        "--show", type=int, default=0, help="print at most this many defects of each kind; 0 prints all"
    )
    parser.add_argument("--workers", type=int, default=1, help="number of processes")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(args: Namespace) -> int:
    """Check and print; returns the exit code."""
    require_ending("gallery", args.gallery, ".png", ".jpg", ".jpeg")
    with ExitStack() as bars:

        def progress(split: str, total: int) -> Callable[[], None]:
            bars.close()
            return bars.enter_context(progress_bar(split, total))

        report = check_dataset(
            args.data,
            args.split,
            data_paths(args),
            max_segments=args.max_segments,
            from_format=args.from_format,
            open_files=not args.annotations_only,
            decode=not args.headers_only,
            group=args.group,
            max_pixels=args.max_pixels,
            workers=args.workers,
            progress=progress,
        )
    if args.gallery:
        write_gallery(args.gallery, report)
    if args.json:
        json.dump(report.to_json(), sys.stdout, ensure_ascii=False, indent=1)
        print()
    else:
        _print(report, args.show)
    return 1 if report.defects else 0


def _print(report: Report, show: int) -> None:
    console = plain_console()
    for split in report.splits:
        _print_figures(split, console)
    for split in report.splits:
        _print_defects(split.defects, show, console)
    for split in report.splits:
        _print_defects(split.notes, show, console)
    kinds = Counter(d.kind for d in report.defects)
    if kinds:
        text = ", ".join(f"{n} {kind}" for kind, n in kinds.most_common())
        console.print(f"{kinds.total()} defects: {text}", style="bold red")
    else:
        console.print("no defects", style="bold green")
    if notes := Counter(d.kind for d in report.notes):
        text = ", ".join(f"{n} {kind}" for kind, n in notes.most_common())
        console.print(f"{notes.total()} notes, worth a look: {text}")


def _print_figures(split: SplitReport, console) -> None:  # type: ignore[no-untyped-def]
    console.print(f"{split.split or 'data set'}: {split.panoptic_json}", style="bold")
    without = split.images - split.annotated
    console.print(
        f"{split.images} images{f' ({without} without annotation are skipped)' if without else ''}, "
        f"{split.segments} segments{f' ({split.crowds} crowd)' if split.crowds else ''}"
    )
    used = [row for row in split.classes if row["segments"]]
    classes = table("id", "class", "", "segments", "images", "pixels", left=3)
    for row in sorted(used, key=lambda row: -row["segments"]):
        kind = "thing" if row["isthing"] else "stuff"
        numbers = [f"{row[k]:,}" for k in ("segments", "images", "pixels")]
        classes.add_row(str(row["id"]), row["name"], kind, *numbers)
    console.print(classes)
    if len(used) < len(split.classes):
        console.print(f"{len(split.classes) - len(used)} of {len(split.classes)} classes are never used")
    if split.void:
        console.print(f"{100 * split.void / split.pixels:.1f} % of all pixels have no class")
    sizes = table("area in pixels", "things", "stuff")
    ends = [low - 1 for low, _, _ in split.size_bins[1:]]
    for (low, things, stuff), end in zip(split.size_bins, [*ends, None]):
        sizes.add_row(f"{low}-{end}" if end else f"{low} and more", f"{things:,}", f"{stuff:,}")
    console.print(sizes)
    image, most = split.largest
    if image is not None:
        console.print(f"most segments: {most} in image {image}; {proposals_for(most)} proposals are enough")
    console.print()


def _print_defects(defects: list[Defect], show: int, console) -> None:  # type: ignore[no-untyped-def]
    by_kind: defaultdict[str, list[Defect]] = defaultdict(list)
    for defect in defects:
        by_kind[defect.kind].append(defect)
    for kind, rows in by_kind.items():
        for defect in rows[: show or None]:
            color = {"error": "red", "warning": "yellow"}.get(defect.severity, "cyan")
            console.print(f"{defect.severity} {kind}: {defect.file}: {defect.message}", style=color)
        if show and len(rows) > show:
            console.print(f"… and {len(rows) - show} more {kind}; --show 0 lists them all")
