"""Finding pictures in folders and globs."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..errors import ImageError
from .images import SUFFIXES


def list_images(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[Path]:
    """All pictures that files, folders (searched to the bottom) and globs name.

    A file named outright is taken whatever its ending; in folders and globs the ending decides. Hidden files
    and folders are passed over.

    Returns:
        Sorted paths, each once.

    Raises:
        ImageError: a path does not exist, a glob matches nothing, or a folder holds no picture.
    """
    if isinstance(paths, str | os.PathLike):
        paths = [paths]
    found: set[Path] = set()
    for path in paths:
        text = os.fspath(path)
        if Path(text).is_file():
            found.add(Path(text))
            continue
        if Path(text).is_dir():
            here = set(_pictures_below(Path(text)))
            if not here:
                raise ImageError(f"{text}: no picture in this folder (looked for {_endings()})")
        elif glob.has_magic(text):
            here = set(_matches(text))
            if not here:
                raise ImageError(f"{text}: no picture matches; mind the quotes and the folder it starts from")
        else:
            raise ImageError(f"{text}: no such file or folder")
        found |= here
    if not found:
        raise ImageError("no picture given; name files, folders or globs")
    return sorted(found)


def _pictures_below(folder: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [f for f in folders if not f.startswith(".")]
        for name in names:
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES:
                yield Path(root, name)


def _matches(pattern: str) -> Iterator[Path]:
    wanted = SUFFIXES | {Path(pattern).suffix.lower()} - {""}
    for match in map(Path, glob.glob(pattern, recursive=True)):  # noqa: PTH207 (Path.glob has no rooted patterns)
        if match.is_dir():
            yield from _pictures_below(match)
        elif match.suffix.lower() in wanted:
            yield match


def _endings() -> str:
    return ", ".join(sorted(SUFFIXES))
