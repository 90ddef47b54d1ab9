"""Write a data set in the format of another tool.

Polygons follow the borders of pixels, so that reading them back gives the same pixels. What a format cannot
hold is counted and named. `maskconver predict ... --to FORMAT` writes the results of a model.

Example: maskconver data export my_data --to labelme --out my_data_labelme
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ...data.export_to.write import FORMATS, export
from ..options import bar_when_counted, print_list, shown

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace


def configure(parser: ArgumentParser) -> None:
    """Adds the arguments of `maskconver data export`."""
    add = parser.add_argument
    add("data", type=str, help="folder of the data set")
    add("--to", choices=FORMATS, required=True, help="format to write")
    add("--out", type=str | None, default=None, help="folder to write; DATA_FORMAT by default")
    add("--split", type=str | None, default=None, help="only this split; all by default")
    add(
        "--images",
        type=Literal["copy", "link", "none"],
        default="copy",
        help="copy the image files, link them (hard links, or symbolic ones to another disk), or leave them "
        "where they are",
    )
    add("--image-folder", type=str | None, default=None, help="folder or .zip of the images, if elsewhere")
    add("--things-only", action="store_true", help="leave stuff out")
    add(
        "--simplify",
        type=float,
        default=0.0,
        help="simplify polygons by at most this many pixels: with 1 they are easier to edit, but no longer "
        "exact",
    )
    add("--json", action="store_true", help="print the figures as JSON")


def run(args: Namespace) -> int:
    """Writes the data set; 0 when every image was written, 1 when some could not be read."""
    data = os.path.normpath(args.data)
    if Path(data).name in ("", ".."):  # its own name, not a hidden folder in it
        data = os.path.realpath(data)
    out = args.out or f"{data}_{args.to.replace('-', '_')}"
    with bar_when_counted() as progress:
        done = export(
            args.data,
            out,
            args.to,
            split=args.split,
            images=args.images,
            image_folder=args.image_folder,
            things_only=args.things_only,
            simplify=args.simplify,
            progress=progress,
        )
    if args.json:
        print(json.dumps(vars(done) | {"folder": str(done.folder)}, ensure_ascii=False))
    else:
        print(f"{done.images} images, {done.segments} segments: {done.folder}")
        for text, count in done.notes.items():
            print(f"{text}: {count}")
    title = f"{len(done.failed)} of {done.images + len(done.failed)} images failed:"
    print_list(title, [f"{file}: {shown(reason)}" for file, reason in done.failed])
    return 1 if done.failed else 0
