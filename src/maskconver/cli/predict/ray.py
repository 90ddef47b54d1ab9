"""`maskconver predict --engine ray`: its options, and what is said at the end."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ...errors import ConfigError
from ..options import progress_bar, shown
from .report import Done, report

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

# Options of results that are written on one machine.
NOT_HERE = ("overlay", "labels", "geojson", "table", "intensity", "no_masks", "to", "ids_from", "shard")
ONLY_HERE = ("address", "actors", "actor_cpus", "actor_gpus", "format")


def add_ray_options(parser: ArgumentParser) -> None:
    """Adds the options of several machines."""
    add = parser.add_argument
    add(
        "--engine",
        type=Literal["local", "ray"],
        default="local",
        help="local, or ray: on a Ray cluster of one or many machines, with results as Parquet files",
    )
    add("--address", type=str | None, default=None, help="Ray cluster, HOST:PORT; this machine by default")
    add(
        "--actors",
        type=int | None,
        default=None,
        help="number of processes; by default as many as the cluster has room for",
    )
    add("--actor-cpus", type=float | None, default=None, help="CPU cores of each process; 1 by default")
    add(
        "--actor-gpus",
        type=float | None,
        default=None,
        help="GPUs of each process, e.g. 0.25 for four on each; 1 with --device cuda, otherwise 0",
    )
    add(
        "--format",
        type=Literal["parquet", "files"] | None,
        default=None,
        help="with --engine ray, files also writes panoptic.json and PNGs at the end",
    )


def refuse_ray_options(args: Namespace) -> None:
    """Refuses options of Ray without it."""
    if given := [name for name in ONLY_HERE if getattr(args, name) is not None]:
        raise ConfigError(f"--{given[0].replace('_', '-')} is for --engine ray")


def run_on_ray(args: Namespace, options: dict[str, Any], settings: dict[str, Any]) -> int:
    """Runs the command; 0 when every image was segmented, 1 when some failed.

    Args:
        args: of `predict`.
        options: arguments of `Predictor`.
        settings: what decides the results.
    """
    if given := [name for name in NOT_HERE if getattr(args, name)]:
        raise ConfigError(
            "--engine ray writes Parquet files, and with --format files panoptic.json and PNGs; leave out "
            f"--{given[0].replace('_', '-')}"
        )
    if args.actors is not None and args.actors < 1:
        raise ConfigError(f"--actors {args.actors}: at least one is needed")
    if args.format == "files" and "://" in args.out:
        raise ConfigError("--format files needs a folder of this machine as --out")
    from ...inference.predictor import Predictor
    from ...inference.ray_engine import Plan, find_images, import_ray, require_answer, segment_on_ray, unpack

    on_gpu = (args.device or "cpu").partition(":")[0] == "cuda"
    gpus = float(on_gpu) if args.actor_gpus is None else args.actor_gpus
    plan = Plan(args.address, args.actors, 1 if args.actor_cpus is None else args.actor_cpus, gpus)
    if args.address not in (None, "auto", "local"):
        require_answer(args.address, plan.wait)
    import_ray()
    images, wrong = find_images(args.paths)
    categories = Predictor(args.model, **options | {"device": "cpu"}).categories  # refused here, in one line
    parts = f"{args.out}/parquet" if args.format == "files" else args.out
    start = time.perf_counter()
    with progress_bar("", len(images)) as advance:

        def on_images(count: int) -> None:
            for _ in range(count):
                advance()

        outcome = segment_on_ray(
            images,
            args.model,
            parts,
            plan=plan,
            options=options | {"device": args.device or "cpu"},
            threads=args.threads,
            resume=args.resume,
            settings=settings,
            on_images=on_images,
        )
    seconds = time.perf_counter() - start
    if args.format == "files":
        unpack(parts, Path(args.out), categories)
    failed = [(path, shown(reason)) for path, reason in outcome.failed]
    for text in wrong:
        where, _, reason = shown(text).partition(": ")
        failed.append((where, reason))
    done = Done(
        given=len(images) + len(wrong),
        images=outcome.images,
        before=outcome.before,
        segments=outcome.segments,
        warned=outcome.warned,
        seconds={"total": seconds},
    )
    places: dict[str, object] = {"Parquet": parts}
    if args.format == "files":
        places["panoptic"] = Path(args.out) / "panoptic.json"
    report(args, done, failed, places, done_before=done.before)
    return 1 if failed else 0
