"""Convert the annotations of another tool to a COCO panoptic data set.

The format is recognised from the files, or named with --from. What cannot be read is listed; the rest
is converted. Every decision and count is printed and kept in conversion.json.

Exit code 0: done; 1: done, but files or entries were left out; 2: nothing was written.

Example: maskconver data convert my_export my_data --split train=0.8,val=0.2
"""

from __future__ import annotations

import json
import sys
from typing import get_args

from jsonargparse import ArgumentParser, Namespace

from ...data.conversion.annotation import Edges, Images, Overlaps
from ...data.conversion.registry import FORMATS
from ...data.conversion.run import Conversion, convert
from ..options import bar_when_counted, plain_console, table


def configure(parser: ArgumentParser) -> None:
    """Arguments of `maskconver data convert`."""
    add = parser.add_argument
    add("source", type=str, help="folder, .zip or annotation file, as the tool exported it")
    add("out", type=str, help="folder to write")
    names = list(FORMATS)
    add("--from", "--from-format", dest="from_format", choices=names, help="format, if it is not recognised")
    add("--things", type=str, help="classes whose objects are told apart, separated by commas")
    add("--stuff", type=str, help="classes without objects, such as sky, separated by commas")
    add("--background", type=str, help="stuff class of pixels without annotation, or void to leave them out")
    add(
        "--overlaps",
        choices=get_args(Overlaps),
        default="small-on-top",
        help="which of several shapes a pixel belongs to: the smallest, the last in the file, the one with "
        "the highest score; fail leaves such images out",
    )
    add(
        "--edges",
        choices=get_args(Edges),
        help="pixels on a polygon's outline: all it touches, or those whose centre is inside; by default "
        "as the format defines it",
    )
    add("--merge-stuff", type=bool, default=True, help="one segment per stuff class and image")
    add("--split", type=str, help="train=0.8,val=0.2 to split the images at random, or one name for all")
    add("--group", type=str, help="regular expression; images that match with the same text stay together")
    add("--seed", type=int, default=0, help="seed of the split")
    add(
        "--images",
        choices=get_args(Images),
        default="link",
        help="link the image files (no disk space), copy them, or leave them where they are",
    )
    add("--image-folder", type=str, help="folder of the images, if they are not in the source")
    add("--max-side", type=int, help="reduce larger images to this longer side in pixels")
    add("--colors", type=str, help="for colour masks: the file that says which colour is which class")
    add("--class-attribute", type=str, help="for VIA: the attribute of a region that is its class")
    add("--overwrite", action="store_true", help="replace an earlier conversion")
    add("--show", type=int, default=20, help="print at most this many faults; 0 prints all that are kept")
    add("--json", action="store_true", help="print the report as JSON")


def run(args: Namespace) -> int:
    """Convert and print; returns the exit code."""
    with bar_when_counted() as progress:
        names = ["overlaps", "edges", "background", "merge_stuff", "split", "group", "seed", "images"]
        names += ["image_folder", "max_side", "colors", "class_attribute", "overwrite"]
        result = convert(
            args.source,
            args.out,
            args.from_format,
            things=_names(args.things),
            stuff=_names(args.stuff),
            progress=progress,
            **{name: getattr(args, name) for name in names},
        )
    if args.json:
        json.dump(result.to_json(), sys.stdout, ensure_ascii=False, indent=1, default=str)
        print()
    else:
        _print(result, args.show)
    return 1 if result.errors else 0


def _names(text: str | None) -> list[str]:
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def _print(result: Conversion, show: int) -> None:
    console = plain_console()
    console.print(f"format: {result.format} ({result.reason})")
    for text in result.decisions:
        console.print(f"- {text}")
    classes = table("id", "class", "", "segments", "pixels", "covered by others", left=3)
    for row in result.classes:
        numbers = [f"{row[k]:,}" for k in ("segments", "pixels", "overlapped")]
        classes.add_row(str(row["id"]), row["name"], "thing" if row["isthing"] else "stuff", *numbers)
    console.print(classes)
    if result.void:
        console.print(f"{100 * result.void:.1f} % of all pixels have no class")
    for kind, count in result.notes.items():
        console.print(f"noticed: {count} {kind}")
    for fault in result.faults[: show or None]:
        console.print(f"left out: {fault}", style="red")
    if result.errors:
        total = sum(result.errors.values())
        kinds = ", ".join(f"{n} {kind}" for kind, n in result.errors.items())
        if show and total > show:
            console.print(f"… and {total - show} more; conversion.json lists them", style="red")
        console.print(f"{total} left out: {kinds}", style="bold red")
    counts = ", ".join(f"{n} {split}" for split, n in result.splits.items())
    how = ", ".join(f"{n} {what}" for what, n in result.images.items())
    console.print(f"{result.out}: {counts} images ({how}) in {result.seconds:.1f} s", style="bold green")
