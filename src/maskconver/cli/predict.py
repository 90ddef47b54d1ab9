"""Segment images, folders or globs.

Writes COCO panoptic files (`panoptic.json` and a PNG an image in `panoptic/`), with --overlay also pictures
of the segments over the image in `overlays/`. An image that cannot be read does not stop the others.

Example: maskconver predict nuclei "plates/*.png" --out results --overlay
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.images import MAX_PIXELS, ImageWarning
from ..data.listing import list_images
from ..data.panoptic_files import read_panoptic_json
from ..data.panoptic_png import write_panoptic_png
from ..errors import ConfigError, ImageError, MaskconverError
from ..files import atomic_path
from .progress import progress_bar

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from ..categories import Categories
    from ..predictor import Predictor
    from ..segmentation import Segmentation

SHOWN_ROWS = 20


def configure(parser: ArgumentParser) -> None:
    """Adds the arguments of `maskconver predict`."""
    add = parser.add_argument
    add("model", type=str, help="a bundled name, a .safetensors file, or a run's folder")
    add("paths", nargs="+", type=str, help="images, folders (searched to the bottom), globs")
    add("--out", type=str, default="predictions", help="folder for the results")
    add("--overlay", action="store_true", help="also draw the segments over every image")
    add("--no-masks", action="store_true", help="write no panoptic files, only overlays")
    add("--ids-from", type=str | None, default=None, help="COCO JSON whose image ids are taken, by file name")
    add("--json", action="store_true", help="print the figures as JSON")
    add("--device", type=str | None, default=None, help="cpu, cuda, mps; the best there is by default")
    add("--proposals", type=int | None, default=None, help="masks an image; the model's own by default")
    add("--score-threshold", type=float | None, default=None, help="drop proposals scored at or below this")
    add("--merge.overlap_threshold", type=float | None, default=None, help="share of its mask one must keep")
    add("--merge.min_area", type=float | None, default=None, help="smallest area, of the longer side squared")
    add("--merge.hard_sigmoid", type=bool | None, default=None, help="the papers' on-device sigmoid")
    add("--max-pixels", type=int, default=MAX_PIXELS, help="refuse larger images")
    add("--white-level", type=float | None, default=None, help="value of white in 16-bit images, e.g. 4095")


def run(args: Namespace) -> int:
    """Runs `maskconver predict`; 0 when every image was segmented, 1 when some failed."""
    if args.no_masks and not args.overlay:
        raise ConfigError("--no-masks without --overlay leaves nothing to write; add --overlay")
    out = Path(args.out)
    paths, failures = _inputs(args.paths, out)
    image_ids = _image_ids(args.ids_from, paths)
    _require_writable(out)
    predictor = _predictor(args)
    warned: list[str] = []
    counts: Counter[str] = Counter()
    images, seconds = 0, 0.0
    masks = None if args.no_masks else out
    with (
        progress_bar("", len(paths)) as advance,
        _panoptic_writer(masks, predictor.categories, image_ids) as write,
    ):
        for path, stem in zip(paths, _unique_stems(paths)):
            start = time.perf_counter()
            try:
                with _collected_warnings(warned):
                    result = predictor(path)
            except (MaskconverError, OSError, MemoryError, RuntimeError) as error:
                failures.append(_failure(path, error))
                if len(paths) == len(failures) == 1:  # no batch: refused, and nothing is written
                    raise MaskconverError(": ".join(failures[0])) from error
            else:
                seconds += time.perf_counter() - start
                write(result, stem)
                if args.overlay:
                    with atomic_path(out / "overlays" / f"{stem}.png") as temporary:
                        result.draw().save(temporary, "PNG", compress_level=3)
                counts.update(s.category for s in result.segments)
                images += 1
            advance()
    _report(args, out, images, seconds, counts, warned, failures)
    return 1 if failures else 0


def _predictor(args: Namespace) -> Predictor:
    from ..predictor import Predictor

    merge = {k: v for k, v in vars(args.merge).items() if v is not None}
    if args.score_threshold is not None:
        merge["object_threshold"] = args.score_threshold
    return Predictor(
        args.model,
        device=args.device,
        proposals=args.proposals,
        max_pixels=args.max_pixels,
        white_level=args.white_level,
        **merge,
    )


def _inputs(paths: list[str], out: Path) -> tuple[list[Path], list[tuple[str, str]]]:
    """The images to segment, and what was named but is not there.

    Earlier results are passed over where the output lies in an input folder.
    """
    results = {(out / "panoptic").resolve(), (out / "overlays").resolve()}
    named = {Path(path) for path in paths}
    found: set[Path] = set()
    missing: list[tuple[str, str]] = []
    for path in paths:
        try:
            found.update(p for p in list_images(path) if p in named or p.resolve().parent not in results)
        except ImageError as error:
            if len(paths) == 1:
                raise
            missing.append(_failure(path, error))
    if not found:
        raise ImageError("; ".join(": ".join(row) for row in missing) or f"{', '.join(paths)}: no picture")
    return sorted(found), missing


def _image_ids(source: str | None, paths: list[Path]) -> dict[str, int | str]:
    """Image ids by file name, so that `maskconver pq` pairs the results with that file's ground truth.

    Raises:
        ConfigError: an image is not in the file, or two of its images share a name.
    """
    if source is None:
        return {}
    rows = read_panoptic_json(source).images
    ids = {Path(row.file_name).name: row.id for row in rows}
    if len(ids) < len(rows):
        raise ConfigError(f"{source}: several images have the same file name, ids cannot be taken from it")
    if unknown := [path.name for path in paths if path.name not in ids]:
        raise ConfigError(f"{source} has no image {unknown[0]} ({len(unknown)} are missing in all)")
    return ids


def _failure(path: str | Path, error: Exception) -> tuple[str, str]:
    reason = " ".join(str(error).split()) or type(error).__name__
    return str(path), reason.removeprefix(f"{path}: ")


def _require_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(
            f"cannot write to {folder} ({error.strerror}); choose another folder with --out"
        ) from None


def _unique_stems(paths: list[Path]) -> list[str]:
    """A name for the results of each image: its stem, numbered where several images have the same."""
    taken: set[str] = set()
    names = []
    for path in paths:
        name, number = path.stem, 1
        while name.lower() in taken:  # lower case: some file systems do not tell them apart
            number += 1
            name = f"{path.stem}_{number}"
        taken.add(name.lower())
        names.append(name)
    return names


@contextmanager
def _panoptic_writer(
    folder: Path | None, categories: Categories, image_ids: dict[str, int | str]
) -> Iterator[Callable[[Segmentation, str], None]]:
    """A function that writes one image's PNG and its row of the JSON; None as folder: it writes nothing.

    The JSON grows on disk and takes its name when the block ends; after Ctrl-C it holds what was done.
    """
    if folder is None:
        yield lambda result, stem: None
        return
    images: list[dict[str, Any]] = []
    stopped = False
    with atomic_path(folder / "panoptic.json") as temporary, temporary.open("w", encoding="utf-8") as file:

        def write(result: Segmentation, stem: str) -> None:
            write_panoptic_png(folder / "panoptic" / f"{stem}.png", result.ids)
            height, width = result.ids.shape
            number = image_ids.get(Path(result.file_name).name, len(images) + 1)
            row = json.dumps(result.to_coco(number, f"{stem}.png"), ensure_ascii=False)
            file.write((",\n" if images else "") + row)
            images.append({"id": number, "file_name": result.file_name, "height": height, "width": width})

        file.write('{"annotations": [\n')
        try:
            yield write
        except KeyboardInterrupt:
            stopped = True
        tail = {"images": images, "categories": categories.to_json()}
        file.write("\n],\n" + json.dumps(tail, ensure_ascii=False)[1:] + "\n")
    if stopped:
        raise KeyboardInterrupt


def _report(
    args: Namespace,
    out: Path,
    images: int,
    seconds: float,
    counts: Counter[str],
    warned: list[str],
    failures: list[tuple[str, str]],
) -> None:
    rate = images / seconds if seconds else 0.0
    if args.json:
        figures = {
            "images": images,
            "segments": counts.total(),
            "segments_by_category": dict(counts.most_common()),
            "images_per_second": round(rate, 3),
            "out": str(out),
            "warnings": warned,
            "failed": [{"file": path, "reason": reason} for path, reason in failures],
        }
        print(json.dumps(figures, ensure_ascii=False))
    else:
        common = ", ".join(f"{n} {name}" for name, n in counts.most_common(5))
        more = ", …" if len(counts) > 5 else ""
        print(f"{images} images, {counts.total()} segments{f' ({common}{more})' if common else ''}")
        print(f"{rate:.2f} images/s (reading, network and merge)")
        if not args.no_masks:
            print(f"panoptic: {out / 'panoptic.json'}")
        if args.overlay:
            print(f"overlays: {out / 'overlays'}")
    _list(f"{len(warned)} warning{'s' if len(warned) > 1 else ''}:", warned)
    _list(
        f"{len(failures)} of {images + len(failures)} images failed:",
        [f"{path}: {reason}" for path, reason in failures],
    )


def _list(title: str, rows: list[str]) -> None:
    if not rows:
        return
    more = [f"… and {len(rows) - SHOWN_ROWS} more"] if len(rows) > SHOWN_ROWS else []
    print("\n  ".join([title, *rows[:SHOWN_ROWS], *more]), file=sys.stderr)


@contextmanager
def _collected_warnings(texts: list[str]) -> Iterator[None]:
    """Adds the texts of the warnings about pictures in the block to a list, to be said at the end."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        yield
    texts += [str(w.message) for w in caught if issubclass(w.category, ImageWarning)]
