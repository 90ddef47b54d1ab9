"""Show what a data set looks like, and suggest a recipe to train on it.

Classes, sizes, objects per image, how often the centres of two objects fall into one cell of a heatmap, and
mean and standard deviation of the images.

Example: maskconver data stats my_data --write-recipe my.yaml
"""

from __future__ import annotations

import json
import os

from jsonargparse import ArgumentParser, Namespace

from ...core.files import atomic_path
from ...data.stats import QUANTILES, STRIDES, Stats, dataset_stats
from ...data.suggest import recipe_text, suggest_recipe
from ...errors import ConfigError
from ..options import add_data_paths, bar_when_counted, data_paths, plain_console, table


def configure(parser: ArgumentParser) -> None:
    """Arguments of `maskconver data stats`."""
    parser.add_argument("data", type=str, nargs="?", help="folder of the data set")
    parser.add_argument("--split", type=str, help="which split; train by default")
    add_data_paths(parser)
    parser.add_argument(
        "--max-images",
        type=int,
        default=2000,
        help="open at most this many annotation files (the same ones each time)",
    )
    parser.add_argument(
        "--workers", type=int, default=min(os.cpu_count() or 1, 4), help="number of threads that open files"
    )
    parser.add_argument("--write-recipe", type=str, help="write the suggested recipe to this YAML file")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing recipe file")
    parser.add_argument("--json", action="store_true", help="print all figures and the recipe as JSON")


def run(args: Namespace) -> int:
    """Look and print; returns the exit code."""
    if args.max_images < 1:
        raise ConfigError(f"`max_images={args.max_images}` must be 1 or more")
    if args.write_recipe and os.path.exists(args.write_recipe) and not args.overwrite:  # noqa: PTH110
        raise ConfigError(f"{args.write_recipe} exists; replace it with --overwrite")
    with bar_when_counted("", "files") as progress:
        stats = dataset_stats(
            args.data,
            args.split,
            data_paths(args),
            max_images=args.max_images,
            workers=args.workers,
            progress=progress,
        )
    recipe, reasons = suggest_recipe(stats)
    fit = (
        None if recipe["model"]["input"].get("mode") == "native" else tuple(recipe["model"]["input"]["size"])
    )
    text = recipe_text(recipe, reasons, stats.path)
    if args.json:
        print(json.dumps({**stats.to_json(fit), "recipe": recipe, "reasons": reasons}, ensure_ascii=False))
    else:
        _print(stats, fit, text)
    if args.write_recipe:
        with atomic_path(args.write_recipe) as path:
            path.write_text(text, encoding="utf-8")
        if not args.json:
            data = f" --data {args.data}" if args.data else ""
            command = f"maskconver train --config {args.write_recipe}{data} --out runs/mine"
            print(f"\nsaved {args.write_recipe}; train with: {command}")
    return 1 if stats.unreadable else 0


def _print(stats: Stats, fit: tuple[int, int] | None, recipe: str) -> None:
    console = plain_console()
    figures = stats.to_json(fit)
    console.print(f"{stats.split or 'data set'}: {stats.path}", style="bold")
    looked = "" if len(stats.sizes) == stats.images else f", {len(stats.sizes)} of them looked at"
    console.print(f"{stats.images} images{looked}, {len(stats.labels)} objects")
    if stats.unreadable:
        console.print(f"{stats.unreadable} files cannot be read, first {stats.fault}")
    console.print()
    spreads = table("", "smallest", *(f"{q} %" for q in QUANTILES[1:-1]), "largest")
    for name, key in (
        ("height, px", "height"),
        ("width, px", "width"),
        ("objects per image", "objects_per_image"),
        ("√area of things, px", "thing_side"),
    ):
        spreads.add_row(name, *(f"{figures[key][f'p{q}']:g}" for q in QUANTILES))
    console.print(spreads, "")
    classes = table("class", "", "objects", "images", "% of pixels", "median √area, px")
    used = [row for row in figures["classes"] if row["objects"]]
    for row in sorted(used, key=lambda row: -row["objects"]):
        numbers = f"{row['objects']:,}", f"{row['images']:,}", f"{100 * row['pixel_share']:.2f}"
        kind = "thing" if row["isthing"] else "stuff"
        classes.add_row(row["name"], kind, *numbers, f"{row['median_side']:.0f}")
    console.print(classes)
    if unused := len(figures["classes"]) - len(used):
        console.print(f"{unused} of {len(figures['classes'])} classes are never used")
    console.print("\nobjects whose centre shares a heatmap cell with another one of the image, %")
    shared = table("stride", *(f"{s}" for s in STRIDES))
    for size in dict.fromkeys((None, fit)):
        name = f"at {size[0]}×{size[1]}" if size else "at their own size"
        every = [stats.collisions(stride, size) for stride in STRIDES]
        shared.add_row(f"{name}, any class", *(f"{100 * any_:.2f}" for any_, _ in every))
        shared.add_row(f"{name}, same class", *(f"{100 * same:.2f}" for _, same in every))
    console.print(shared)
    values = "  ".join(f"{m:.3f} ± {s:.3f}" for m, s in zip(stats.mean, stats.std))
    console.print(f"\n{stats.channels} channels, {stats.bits} bits; mean ± standard deviation: {values}")
    console.print(f"{stats.proposals} proposals are enough\n\n{recipe}", end="")
