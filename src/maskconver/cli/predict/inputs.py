"""Which images `maskconver predict` segments, and where its results may go."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ...data.export_to.write import FORMATS
from ...errors import ConfigError, ImageError, MaskconverError
from ...io.sources import list_images
from ..options import shown

if TYPE_CHECKING:
    from jsonargparse import Namespace

    from ...inference.predictor import Predictor


def find_inputs(paths: list[str], out: Path) -> tuple[list[Path], list[tuple[str, str]]]:
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
            missing.append(failure(path, error))
    strange = {p for p in found if any("\udc80" <= letter <= "\udcff" for letter in str(p))}
    found -= strange
    missing += [(ascii(str(path))[1:-1], "its name is not UTF-8; rename it") for path in sorted(strange)]
    if not found:
        raise ImageError("; ".join(": ".join(row) for row in missing) or f"{', '.join(paths)}: no image")
    return sorted(found), missing


def held_whole(
    paths: list[Path], predictor: Predictor, option: str, failures: list[tuple[str, str]]
) -> list[Path]:
    """Those that are not read part by part; the others are added to `failures`."""
    kept = []
    for path in paths:
        if predictor.reads_in_parts(path):
            failures.append((str(path), f"too large to be kept in memory for --{option}; leave it out"))
        else:
            kept.append(path)
    return kept


def require_no_annotation(args: Namespace, paths: list[Path]) -> None:
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


def require_writable(folder: Path) -> None:
    """Makes the folder, and refuses one in which no file can be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(
            f"cannot write to {folder} ({error.strerror}); choose another folder with --out"
        ) from None


def failure(path: str | Path, error: Exception) -> tuple[str, str]:
    """The file and the reason, as they are listed at the end."""
    text = error.text if isinstance(error, MaskconverError) and error.where == str(path) else error
    return str(path), shown(text)


def file_size(path: Path) -> int:
    """Of a file in bytes; -1 if it cannot be read, which reading the image tells."""
    try:
        return path.stat().st_size
    except OSError:
        return -1
