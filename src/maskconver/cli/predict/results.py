"""The files that `maskconver predict` writes of each image, and those about all images."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...core.files import atomic_path
from ...core.panoptic_png import read_panoptic_png, write_panoptic_png
from ...core.segmentation import Segmentation
from ...data.export_to.write import writing_results
from ...errors import DataError
from ...inference.stream import behind, timed
from ...io.images import MAX_PIXELS
from ...io.journal import PARTS, Journal, Task
from ...io.results import label_writer, panoptic_writer, table_writer, write_geojson, write_large
from ..options import shown
from .report import Done

if TYPE_CHECKING:
    from jsonargparse import Namespace

    from ...core.categories import Categories

LARGE = MAX_PIXELS


def is_large(result: Segmentation) -> bool:
    """Whether a result has too many pixels for a PNG, and is written as TIFF and GeoJSON."""
    return result.ids.size > LARGE


@contextmanager
def writing_files(
    args: Namespace,
    categories: Categories,
    image_ids: dict[str, int | str],
    seconds: dict[str, float],
    *,
    journal: Journal | None,
    failures: list[tuple[str, str]],
) -> Iterator[Callable[[Segmentation, Task, Path], None]]:
    """A function that has an image's files written in the background; all are written when the block ends.

    Images that the format of --to cannot hold are added to `failures`; their other files are written.
    """
    out = Path(args.out)
    with ExitStack() as stack:
        others = writing_results(out / args.to, args.to, categories) if args.to and not journal else None
        export = stack.enter_context(others) if others else None
        masks: Callable[[Segmentation, str], None] | None = None
        if journal and not args.no_masks:
            masks = lambda result, stem: write_panoptic_png(out / "panoptic" / f"{stem}.png", result.ids)  # noqa: E731
        elif not args.no_masks:
            masks = stack.enter_context(panoptic_writer(out, categories, image_ids))
        labels = label_writer(out, categories) if args.labels else None
        own = {"intensity": args.intensity, "pixel_size": args.pixel_size}
        table = None
        if args.table and not journal:
            table = stack.enter_context(table_writer(Path(args.table), **own))

        def write_files(result: Segmentation, stem: str, path: Path) -> None:
            if table:
                table(result)
            elif args.table:
                with table_writer(table_part(args, stem), **own) as part:
                    part(result)
            if is_large(result):
                if not args.no_masks:
                    write_large(out / "large", stem, result, pixel_size=args.pixel_size)
                elif args.geojson:
                    path = out / "geojson" / f"{stem}.geojson"
                    write_geojson(path, result, pixel_size=args.pixel_size)
                return
            if export:
                _export(export, args.to, result, (stem, path), failures)
            if masks:
                masks(result, stem)
            if labels:
                labels(result, stem)
            if args.geojson:
                path = out / "geojson" / f"{stem}.geojson"
                write_geojson(path, result, pixel_size=args.pixel_size)
            if args.overlay:
                with atomic_path(out / "overlays" / f"{stem}.png") as temporary:
                    result.draw().save(temporary, "PNG", compress_level=3)

        def write(result: Segmentation, task: Task, path: Path) -> None:
            with timed(seconds, "write"):  # the only stage of this thread, so nobody else changes this entry
                write_files(result, task.stem, path)
                if journal:
                    journal.add(task, result, masks=masks is not None and not is_large(result))

        yield stack.enter_context(behind(write))


def merge_parts(
    args: Namespace,
    categories: Categories,
    tasks: dict[Path, Task],
    *,
    rows: Iterable[tuple[Task, dict[str, Any]]],
    done: Done,
    failures: list[tuple[str, str]],
) -> None:
    """Writes --table and --to from the results of all shards."""
    out = Path(args.out)
    if args.table:
        parts = [part for task in tasks.values() if (part := table_part(args, task.stem)).is_file()]
        with atomic_path(args.table) as temporary, temporary.open("wb") as file:
            for i, part in enumerate(parts):
                with part.open("rb") as own:
                    if i:
                        own.readline()  # the names of the columns
                    shutil.copyfileobj(own, file)
    if not args.to:
        return
    if (out / args.to).exists():  # it may hold corrections
        done.warned.append(f"{out / args.to} is there already and stays as it is; to renew it, remove it")
        return
    paths = {task: path for path, task in tasks.items()}
    with writing_results(out / args.to, args.to, categories) as write:
        for task, row in rows:
            segments = row["segments_info"]
            png = out / "panoptic" / row["file_name"]
            result = Segmentation.from_ids(
                read_panoptic_png(png),
                categories,
                labels=[np.flatnonzero(categories.ids == s["category_id"])[0] for s in segments],
                segment_ids=[s["id"] for s in segments],
                scores=[s["score"] for s in segments],
                file_name=task.file_name,
            )
            _export(write, args.to, result, (task.stem, paths[task]), failures)


def table_part(args: Namespace, stem: str) -> Path:
    """Where the rows of one image lie until all are done."""
    return Path(args.out) / PARTS / "tables" / f"{stem}.csv"


def _export(
    write: Callable[..., None],
    to: str,
    result: Segmentation,
    names: tuple[str, Path],
    failures: list[tuple[str, str]],
) -> None:
    """Writes a result for --to; one that the format cannot hold is a failure."""
    try:
        write(result, *names)
    except DataError as error:
        failures.append((str(names[1]), shown(f"not in {to}: {error.text}")))
