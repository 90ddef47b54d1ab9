"""What `maskconver predict` says at the end, whatever did the work."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..options import print_list

if TYPE_CHECKING:
    from jsonargparse import Namespace

# The stages that follow one another, and those that run beside them in threads of their own.
IN_TURN = ("network", "postprocess", "join", "waiting")
OVERLAPPED = ("decode", "prepare", "write")


@dataclass
class Done:
    """What a run did.

    Attributes:
        given: number of images named, also of those that are not there.
        images, before, left: number of images segmented now, in earlier runs, and still to do.
        large: number of results that are too large for a PNG.
        segments: how many of each category.
        warned: texts of warnings about images.
        seconds: of each stage, and `total`.
        alive: called after each image.
    """

    given: int
    images: int = 0
    before: int = 0
    left: int = 0
    large: int = 0
    segments: Counter[str] = field(default_factory=Counter)
    warned: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    alive: Callable[[], None] = lambda: None


def report(
    args: Namespace, done: Done, failures: list[tuple[str, str]], places: Mapping[str, object], **figures: Any
) -> None:
    """Prints what was done, and on standard error the warnings and failures.

    Args:
        args: of `predict`; `json` and `out` are used.
        done: what was done.
        failures: (file, reason) of each image that failed.
        places: where each kind of result lies.
        figures: more keys of the JSON.
    """
    rate = done.images / done.seconds["total"]
    if args.json:
        own = {
            "images": done.images,
            "segments": done.segments.total(),
            "segments_by_category": dict(done.segments.most_common()),
            "images_per_second": round(rate, 3),
            "seconds": {stage: round(value, 4) for stage, value in done.seconds.items()},
            "out": args.out,
            "warnings": done.warned,
            "failed": [{"file": path, "reason": reason} for path, reason in failures],
        }
        print(json.dumps(own | figures, ensure_ascii=False))
    else:
        common = ", ".join(f"{n} {name}" for name, n in done.segments.most_common(5))
        more = ", …" if len(done.segments) > 5 else ""
        counted = f" ({common}{more})" if common else ""
        print(f"{done.images} images, {done.segments.total()} segments{counted}")
        if done.images and not done.segments:
            print("nothing found: try a lower --score-threshold, or train the model longer")
        print(f"{rate:.2f} images/s from reading to writing; {_shares(done.seconds)}")
        if done.before:
            print(f"{done.before} images were done before")
        if done.left:
            print(f"{done.left} images are left to do; the last shard writes the files about all images")
        for what, place in places.items():
            print(f"{what}: {place}")
    print_list(f"{len(done.warned)} warning{'s' if len(done.warned) > 1 else ''}:", done.warned)
    print_list(
        f"{len(failures)} of {done.given} images failed:",
        [f"{path}: {reason}" for path, reason in failures],
    )


def places_of(args: Namespace, done: Done) -> dict[str, object]:
    """Where the results of a run on this machine lie, by what they are."""
    out = Path(args.out)
    all_done = not done.left
    places = (
        (args.to and all_done, args.to, out / str(args.to)),
        (all_done and not args.no_masks, "panoptic", out / "panoptic.json"),
        (args.labels, "labels", out / "labels"),
        (args.overlay, "overlays", out / "overlays"),
        (args.geojson, "polygons", out / "geojson"),
        (args.table and all_done, "table", args.table),
        (
            done.large and not args.no_masks,
            f"{done.large} too large for a PNG, as TIFF and GeoJSON",
            out / "large",
        ),
    )
    return {what: place for there, what, place in places if there}


def _shares(seconds: dict[str, float]) -> str:
    """`1.5 s: network 60 %, …; meanwhile in other threads decode 12 %, …`, in shares of the whole time."""

    def listed(stages: tuple[str, ...]) -> str:
        return ", ".join(f"{s} {100 * seconds.get(s, 0.0) / seconds['total']:.0f} %" for s in stages)

    total = f"{seconds['total']:.1f} s"
    if len(seconds) == 1:
        return total
    return f"{total}: {listed(IN_TURN)}; meanwhile in other threads {listed(OVERLAPPED)}"
