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
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from ...core.files import bundled_onnx
from ...data.export_to.write import FORMATS
from ...errors import CheckpointError, ConfigError, ImageError, MaskconverError
from ...inference.stream import timed
from ...io.images import MAX_PIXELS, ImageWarning
from ...io.journal import LOCK, PARTS, Journal, Task, open_journal
from ...io.lock import hold
from ...io.naming import image_ids_from, result_names, unique_stems
from ...io.sources import unread_images
from ..options import (
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
from .inputs import failure, file_size, find_inputs, held_whole, require_no_annotation, require_writable
from .ray import ONLY_HERE, add_ray_options, refuse_ray_options, run_on_ray
from .report import OVERLAPPED, Done, places_of, report
from .results import is_large, merge_parts, table_part, writing_files
from .video import names_videos, require_images, require_video_options, run_videos

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from ...inference.predictor import Predictor

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
        require_writable(Path(args.out))
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
    paths, failures = find_inputs(args.paths, out)
    if unread := unread_images(args.paths):
        text = f"{len(unread)} files of kinds that are not read are passed over, e.g. {shown(unread[0])}"
        print(f"note: {text}; convert them", file=sys.stderr)
    names = result_names(paths, args.paths)
    if in_parts:  # the same order on machines where the folder has another path
        paths.sort(key=lambda path: (PurePosixPath(names[path]), path))
    image_ids = image_ids_from(args.ids_from, names)
    require_writable(out)
    require_no_annotation(args, paths)
    predictor = _predictor(args)
    if args.labels:
        source = args.semantic_from or predictor.dense_from
        predictor = predictor.answering(semantic=source == "scores")
    if not in_parts and (out / "panoptic.json").exists():
        print(f"note: {out} holds an earlier result; files of the same names are replaced", file=sys.stderr)
    tasks = {
        p: Task(names[p], file_size(p), stem)
        for p, stem in zip(paths, unique_stems(path.stem for path in paths))
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
                then=lambda rows: merge_parts(
                    args, predictor.categories, tasks, rows=rows, done=done, failures=failures
                ),
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
        kept = set(held_whole(list(tasks), predictor, "overlay" if args.overlay else "intensity", failures))
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
        writing_files(
            args, predictor.categories, image_ids, done.seconds, journal=journal, failures=failures
        ) as write,
        closing(stream) as answers,
    ):
        predictor.on_tile = _tile_progress(advance)
        for path, answer in answers:
            if isinstance(answer, MaskconverError):
                failures.append(failure(path, answer))
                if journal:
                    journal.add(tasks[path], None)
                elif len(tasks) == len(failures) == 1:  # no batch: refused, and nothing is written
                    raise MaskconverError(": ".join(failures[0])) from answer
            else:
                with timed(done.seconds, "waiting"):
                    write(replace(answer, file_name=tasks[path].file_name), tasks[path], path)
                done.images += 1
                done.large += is_large(answer)
                done.segments.update(s.category for s in answer.segments)
            done.alive()
            advance()


def _is_done(journal: Journal, task: Task, args: Namespace) -> bool:
    return journal.is_done(task) and not (args.table and not table_part(args, task.stem).is_file())


def _shard(text: str | None) -> tuple[int, int]:
    """Number and count of a shard, (1, 1) if there is none."""
    if text is None:
        return 1, 1
    number, slash, count = text.partition("/")
    digits = slash and number.isdecimal() and count.isdecimal()
    if not digits or not 1 <= int(number) <= int(count):
        raise ConfigError(f"--shard {text}: write the number of the part and how many there are, e.g. 1/4")
    return int(number), int(count)


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
    from ... import __version__

    file = Path(args.model)
    if not file.is_file():
        try:
            from ...models.checkpoint import find

            file = find(args.model)
        except ModuleNotFoundError:
            file = bundled_onnx(args.model) or file
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


def _predictor(args: Namespace) -> Predictor:
    from ...core.malloc import keep_freed_memory
    from ...inference.predictor import Predictor

    keep_freed_memory()
    return Predictor(args.model, **_options(args))


def _options(args: Namespace) -> dict[str, Any]:
    """The other arguments of `Predictor`."""
    names = "device", "proposals", "batch_size", "max_pixels", "white_level", "draft_jpeg", "tta"
    own = {name: getattr(args, name) for name in names}
    return own | postprocess_settings(args) | tile_settings(args)


@contextmanager
def _warnings_in(texts: list[str]) -> Iterator[None]:
    """Adds the texts of the warnings about images in the block to a list, to be said at the end."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    texts += [shown(w.message) for w in caught if issubclass(w.category, ImageWarning)]
