"""Segment images, folders or glob patterns; or videos, a camera or a network stream.

Writes COCO panoptic files: `panoptic.json`, and one PNG per image in `panoptic/`. With --overlay it also
draws the segments over each image (`overlays/`), with --labels it writes PNGs of classes (`labels/`), with
--geojson polygons for QuPath (`geojson/`), and with --table a CSV file of measurements. If an image cannot be
read, the others are still processed. With --resume and --shard, a large set of images is segmented in several
runs or by several processes; with --engine ray, by the processes of a Ray cluster, which write Parquet files.

A video (`clip.mp4`), a camera (`0`) or a stream (`rtsp://…`) becomes an MP4 file with the segments drawn over
every frame. Things keep their id from frame to frame.

Example: maskconver predict nuclei "plates/*.png" --out results --overlay
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.files import WEIGHTS, atomic_path
from ..core.panoptic_png import read_panoptic_png, write_panoptic_png
from ..core.segmentation import Segmentation
from ..data.export_to.write import FORMATS, writing_results
from ..errors import CheckpointError, ConfigError, DataError, ImageError, MaskconverError
from ..inference.stream import behind, timed
from ..io.images import MAX_PIXELS, ImageWarning
from ..io.journal import LOCK, PARTS, Journal, Task, open_journal
from ..io.lock import hold
from ..io.naming import image_ids_from, result_names, unique_stems
from ..io.results import label_writer, panoptic_writer, table_writer, write_geojson, write_large
from ..io.sources import list_images, unread_images
from .options import (
    add_common,
    add_model,
    add_postprocess_options,
    add_semantic_from,
    add_tile_options,
    add_tta,
    postprocess_settings,
    progress_bar,
    refuse_old_options,
    require_ending,
    shown,
    tile_settings,
)
from .predict_ray import ONLY_HERE, add_ray_options, refuse_ray_options, run_on_ray
from .predict_report import OVERLAPPED, Done, places_of, report
from .video import names_videos, require_images, require_video_options, run_videos

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from ..core.categories import Categories
    from ..inference.predictor import Predictor

LARGE = MAX_PIXELS  # results with more are written as TIFF and GeoJSON

prepare = refuse_old_options


def configure(parser: ArgumentParser) -> None:
    """Adds the arguments of `maskconver predict`."""
    add = parser.add_argument
    add_model(parser)
    add(
        "paths",
        nargs="+",
        type=str,
        help="images, folders (with their subfolders) or glob patterns; or video files, the number of a "
        "camera (0), or an address (rtsp://…)",
    )
    add("--out", type=str, default="predictions", help="folder for the results")
    add("--overlay", action="store_true", help="also draw the segments over every image")
    add("--labels", action="store_true", help="also write PNGs whose values are classes, and classes.json")
    add_semantic_from(parser, "make the PNGs of --labels")
    add("--geojson", action="store_true", help="also write the segments as polygons, as QuPath reads them")
    add("--table", type=str | None, default=None, help="also write a CSV file with a row for each segment")
    add("--intensity", action="store_true", help="add each segment's mean brightness (0 to 255) to the table")
    add(
        "--pixel-size",
        type=float | None,
        default=None,
        help="side of a pixel, e.g. in micrometres; adds areas and positions in that unit",
    )
    add("--no-masks", action="store_true", help="write no panoptic files, only the other results")
    add(
        "--to",
        choices=FORMATS,
        help="also write the results in the format of a labelling tool, to correct them; see data export",
    )
    add(
        "--ids-from",
        type=str | None,
        default=None,
        help="COCO JSON file that gives the results their image ids, matched by file name",
    )
    add(
        "--resume",
        action="store_true",
        help="skip the images that an earlier run with --resume or --shard has segmented",
    )
    add(
        "--shard",
        type=str | None,
        default=None,
        help="segment one part of the images, e.g. 2/8, while other processes write the others to the same "
        "--out; the last one to finish writes panoptic.json, --table and --to",
    )
    add("--every", type=int | None, default=None, help="videos: segment every n-th frame only")
    add("--max-frames", type=int | None, default=None, help="videos: stop after this number of frames")
    add("--frame-masks", action="store_true", help="videos: also write COCO panoptic files of the frames")
    add("--no-track", action="store_true", help="videos: do not follow things from frame to frame")
    add("--json", action="store_true", help="print the figures as JSON")
    add_common(parser, "device", "proposals")
    add_postprocess_options(parser)
    add_tta(parser)
    add_tile_options(parser)
    add("--max-pixels", type=int, default=MAX_PIXELS, help="refuse images with more pixels than this")
    add(
        "--draft-jpeg",
        action="store_true",
        help="read large JPEG files at reduced size: faster, with slightly different results",
    )
    add("--threads", type=int, default=2, help="number of images read at the same time")
    add(
        "--batch-size",
        type=int,
        default=1,
        help="number of images of one size that the network gets at a time; faster on GPUs; exported files "
        "must have been made with --dynamic batch",
    )
    add_ray_options(parser)
    add_common(parser, "white_level")


def run(args: Namespace) -> int:
    """Runs `maskconver predict`; 0 when every image was segmented, 1 when some failed."""
    require_ending("table", args.table, ".csv")
    if args.engine != "ray" and names_videos(args.paths):
        require_video_options(args)
        _require_writable(Path(args.out))
        return run_videos(args, _predictor(args))
    require_images(args)
    _require_options(args)
    if args.engine == "ray":
        return run_on_ray(args, _options(args), _settings(args))
    refuse_ray_options(args)
    in_parts = args.resume or args.shard is not None
    shard = _shard(args.shard)
    out = Path(args.out)
    if not in_parts and (out / PARTS).is_dir():
        raise ConfigError(
            f"{out} holds results of --resume or --shard; add --resume, or choose another folder with --out"
        )
    paths, failures = _inputs(args.paths, out)
    if unread := unread_images(args.paths):
        text = f"{len(unread)} files of kinds that are not read are passed over, e.g. {shown(unread[0])}"
        print(f"note: {text}; convert them", file=sys.stderr)
    names = result_names(paths, args.paths)
    if in_parts:  # the same order on machines where the folder has another path
        paths.sort(key=lambda path: (PurePosixPath(names[path]), path))
    image_ids = image_ids_from(args.ids_from, names)
    _require_writable(out)
    _require_no_annotation(args, paths)
    predictor = _predictor(args)
    if args.labels:
        source = args.semantic_from or predictor.dense_from
        predictor = predictor.answering(semantic=source == "scores")
    if not in_parts and (out / "panoptic.json").exists():
        print(f"note: {out} holds an earlier result; files of the same names are replaced", file=sys.stderr)
    tasks = {
        p: Task(names[p], _size(p), stem) for p, stem in zip(paths, unique_stems(path.stem for path in paths))
    }
    done = Done(0)
    start = time.perf_counter()
    with ExitStack() as stack:
        journal = None
        if not in_parts:
            done.alive = stack.enter_context(hold(out / LOCK, str(out))).beat
        else:
            opened = open_journal(out, shard, _settings(args), resume=args.resume)
            journal = stack.enter_context(opened)
            mine = paths[shard[0] - 1 :: shard[1]]
            paths = [path for path in mine if not _is_done(journal, tasks[path], args)]
            done.before = len(mine) - len(paths)
        done.given = len(paths) + len(failures)
        _segment(args, predictor, {path: tasks[path] for path in paths}, image_ids, done, failures, journal)
        if journal:
            done.left = journal.merge(
                tasks.values(),
                predictor.categories,
                image_ids,
                masks=not args.no_masks,
                then=lambda rows: _merge_parts(args, predictor.categories, tasks, rows, done, failures),
            )
    done.seconds["total"] = time.perf_counter() - start
    figures: dict[str, Any] = {"overlapped": list(OVERLAPPED)}
    if in_parts:
        figures |= {"done_before": done.before, "left": done.left}
    report(args, done, failures, places_of(args, done), **figures)
    return 1 if failures else 0


def _require_options(args: Namespace) -> None:
    """Refuses options that do not go together, and numbers that mean nothing."""
    kept = "overlay" if args.overlay else "intensity"
    others = args.overlay or args.labels or args.geojson or args.table or args.to
    size = args.pixel_size
    in_parts = args.engine != "ray" and (args.resume or args.shard is not None)
    pixels = "--pixel-size and --geojson are about pixels of the image; leave out --output-side"
    no_image = f"--{kept} needs the full-size image, which --draft-jpeg does not read; use one of the two"
    no_labels = "--semantic-from chooses how the PNGs of --labels are made; add --labels or leave it out"
    no_table = "--intensity is a column of the table; add --table FILE.csv"
    no_files = "--to with --resume or --shard is made from the panoptic files; leave out --no-masks"
    nothing = "--no-masks leaves nothing to write; add --overlay, --labels, --geojson, --table or --to"
    no_size = "--pixel-size must be a length above 0, and needs --table or --geojson"
    measured = size is None or (0 < size < math.inf and (args.table or args.geojson))
    refused = {
        nothing: args.no_masks and not others,
        "--to writes results at the size of the image; leave out --output-side": args.to and args.output_side,
        pixels: args.output_side and (args.pixel_size or args.geojson),
        no_image: args.draft_jpeg and (args.overlay or args.intensity),
        no_table: args.intensity and not args.table,
        no_size: not measured,
        no_labels: args.semantic_from and not args.labels,
        f"--threads {args.threads}: at least one is needed to read": args.threads < 1,
        f"--batch-size {args.batch_size}: at least one image is needed": args.batch_size < 1,
        no_files: in_parts and args.to and args.no_masks,
    }
    for message, wrong in refused.items():
        if wrong:
            raise ConfigError(message)


def _segment(
    args: Namespace,
    predictor: Predictor,
    tasks: dict[Path, Task],
    image_ids: dict[str, int | str],
    done: Done,
    failures: list[tuple[str, str]],
    journal: Journal | None,
) -> None:
    """Segments images and writes their results; what happened is added to `done` and `failures`."""
    keep = args.overlay or args.intensity
    if keep:  # told before hours of work, not after
        kept = set(_small(list(tasks), predictor, "overlay" if args.overlay else "intensity", failures))
        if journal:
            for path in tasks.keys() - kept:
                journal.add(tasks[path], None)
        elif not kept:
            raise ImageError(": ".join(failures[0]))
        tasks = {path: task for path, task in tasks.items() if path in kept}
    stream = predictor.stream(list(tasks), keep_images=keep, threads=args.threads, seconds=done.seconds)
    with (
        _warnings_in(done.warned),
        progress_bar("", len(tasks)) as advance,
        _results(
            args, predictor.categories, image_ids, done.seconds, journal=journal, failures=failures
        ) as write,
        closing(stream) as answers,
    ):
        predictor.on_tile = _tile_progress(advance)
        for path, answer in answers:
            if isinstance(answer, MaskconverError):
                failures.append(_failure(path, answer))
                if journal:
                    journal.add(tasks[path], None)
                elif len(tasks) == len(failures) == 1:  # no batch: refused, and nothing is written
                    raise MaskconverError(": ".join(failures[0])) from answer
            else:
                with timed(done.seconds, "waiting"):
                    write(replace(answer, file_name=tasks[path].file_name), tasks[path], path)
                done.images += 1
                done.large += answer.ids.size > LARGE
                done.segments.update(s.category for s in answer.segments)
            done.alive()
            advance()


def _table_part(args: Namespace, stem: str) -> Path:
    """Where the rows of one image lie until all are done."""
    return Path(args.out) / PARTS / "tables" / f"{stem}.csv"


def _is_done(journal: Journal, task: Task, args: Namespace) -> bool:
    return journal.is_done(task) and not (args.table and not _table_part(args, task.stem).is_file())


def _merge_parts(
    args: Namespace,
    categories: Categories,
    tasks: dict[Path, Task],
    rows: Iterable[tuple[Task, dict[str, Any]]],
    done: Done,
    failures: list[tuple[str, str]],
) -> None:
    """Writes --table and --to from the results of all shards."""
    out = Path(args.out)
    if args.table:
        parts = [part for task in tasks.values() if (part := _table_part(args, task.stem)).is_file()]
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


def _shard(text: str | None) -> tuple[int, int]:
    """Number and count of a shard, (1, 1) if there is none."""
    if text is None:
        return 1, 1
    number, slash, count = text.partition("/")
    digits = slash and number.isdecimal() and count.isdecimal()
    if not digits or not 1 <= int(number) <= int(count):
        raise ConfigError(f"--shard {text}: write the number of the part and how many there are, e.g. 1/4")
    return int(number), int(count)


def _size(path: Path) -> int:
    """Of a file in bytes; -1 if it cannot be read, which reading the image tells."""
    try:
        return path.stat().st_size
    except OSError:
        return -1


NO_SETTING = (
    "model",
    "paths",
    "out",
    "json",
    "device",
    "threads",
    "resume",
    "shard",
    "ids_from",
    "table",
    "to",
    "batch_size",
    "engine",
    *ONLY_HERE,
)


def _settings(args: Namespace) -> dict[str, Any]:
    """What decides the results: the content of the model's file, the options, and our version."""
    from .. import __version__

    file = Path(args.model)
    if not file.is_file():
        try:
            from ..models.checkpoint import find

            file = find(args.model)
        except ModuleNotFoundError:
            file = WEIGHTS / f"{args.model}.onnx"
        except CheckpointError:
            pass
    model: str = args.model
    with suppress(OSError), file.open("rb") as content:
        model = hashlib.file_digest(content, "sha256").hexdigest()
    own = {name: value for name, value in vars(args).items() if name not in NO_SETTING}
    return {"model": model, "version": __version__} | own


def _tile_progress(advance: Callable[..., None]) -> Callable[[int, int], None]:
    """Shows the tiles of an image and their rate."""
    begun = time.perf_counter()

    def on_tile(done: int, count: int) -> None:
        nonlocal begun
        now = time.perf_counter()
        if done == 1:
            begun = now
        rate = f", {(done - 1) / (now - begun):.1f} tiles/s" if done > 1 else ""
        advance(f"tile {done} of {count}{rate}")

    return on_tile


@contextmanager
def _results(
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
                with table_writer(_table_part(args, stem), **own) as part:
                    part(result)
            if result.ids.size > LARGE:
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
                    journal.add(task, result, masks=masks is not None and result.ids.size <= LARGE)

        yield stack.enter_context(behind(write))


def _predictor(args: Namespace) -> Predictor:
    from ..core.malloc import keep_freed_memory
    from ..inference.predictor import Predictor

    keep_freed_memory()
    return Predictor(args.model, **_options(args))


def _options(args: Namespace) -> dict[str, Any]:
    """The other arguments of `Predictor`."""
    names = "device", "proposals", "batch_size", "max_pixels", "white_level", "draft_jpeg", "tta"
    own = {name: getattr(args, name) for name in names}
    return own | postprocess_settings(args) | tile_settings(args)


def _inputs(paths: list[str], out: Path) -> tuple[list[Path], list[tuple[str, str]]]:
    """The images to segment, and what was named but is not there.

    Earlier results are passed over where the output lies in an input folder.
    """
    results = {
        Path(os.path.realpath(out / name)) for name in ("panoptic", "overlays", "labels", "large", *FORMATS)
    }
    named = {Path(path) for path in paths}
    found: set[Path] = set()
    missing: list[tuple[str, str]] = []
    for path in paths:
        try:
            real = Path(os.path.realpath(path))  # unlike `resolve`, also of links in a circle
            own = {r for r in results if not real.is_relative_to(r)}  # a folder of results may be named
            for image in list_images(path):
                if image in named or own.isdisjoint(Path(os.path.realpath(image)).parents):
                    found.add(image)
        except ImageError as error:
            if len(paths) == 1:
                raise
            missing.append(_failure(path, error))
    strange = {p for p in found if any("\udc80" <= letter <= "\udcff" for letter in str(p))}
    found -= strange
    missing += [(ascii(str(path))[1:-1], "its name is not UTF-8; rename it") for path in sorted(strange)]
    if not found:
        raise ImageError("; ".join(": ".join(row) for row in missing) or f"{', '.join(paths)}: no image")
    return sorted(found), missing


def _small(
    paths: list[Path], predictor: Predictor, option: str, failures: list[tuple[str, str]]
) -> list[Path]:
    """Those that are not read part by part; the others are added to `failures`."""
    small = []
    for path in paths:
        if predictor.reads_in_parts(path):
            failures.append((str(path), f"too large to be kept in memory for --{option}; leave it out"))
        else:
            small.append(path)
    return small


def _failure(path: str | Path, error: Exception) -> tuple[str, str]:
    text = error.text if isinstance(error, MaskconverError) and error.where == str(path) else error
    return str(path), shown(text)


def _require_no_annotation(args: Namespace, paths: list[Path]) -> None:
    """Refuses to write over images that are read, or over the annotation of a data set."""
    out, fix = Path(args.out), "choose another folder with --out"
    written = {Path(os.path.realpath(out / name)) for name in ("panoptic", "overlays", "labels")}
    for path in paths:
        if Path(os.path.realpath(path)).parent in written:
            raise ConfigError(f"{path} could be replaced by its result", fix=fix)
    own = out / "panoptic.json"
    text = own.read_bytes() if own.is_file() and not args.no_masks else b""
    if b'"area"' in text and b'"score"' not in text:  # every segment of a result has a score
        raise ConfigError(f"{own} is an annotation and would be replaced", fix=fix)
    if args.labels and (out / "images").is_dir() and (out / "classes.json").exists():
        raise ConfigError(f"{out} is a label folder, whose annotation would be replaced", fix=fix)


def _require_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(
            f"cannot write to {folder} ({error.strerror}); choose another folder with --out"
        ) from None


@contextmanager
def _warnings_in(texts: list[str]) -> Iterator[None]:
    """Adds the texts of the warnings about images in the block to a list, to be said at the end."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    texts += [shown(w.message) for w in caught if issubclass(w.category, ImageWarning)]
