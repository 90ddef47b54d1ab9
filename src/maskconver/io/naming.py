"""What the results of images are called, and which image ids they get."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Sequence
from itertools import takewhile
from pathlib import Path, PurePath, PurePosixPath

from ..errors import ConfigError
from .panoptic_json import read_image_rows


def unique_stems(stems: Iterable[str]) -> list[str]:
    """Each stem, numbered (`cells_2`) where an earlier one is the same but for upper and lower case.

    >>> unique_stems(["a", "b", "A", "a_2"])
    ['a', 'b', 'A_2', 'a_2_2']
    """
    taken: set[str] = set()
    last: dict[str, int] = {}  # of each stem, the number it got last
    names = []
    for stem in stems:
        name, number = stem, last.get(stem.lower(), 1)
        while name.lower() in taken:  # lower case: some file systems do not tell them apart
            number += 1
            name = f"{stem}_{number}"
        last[stem.lower()] = number
        taken.add(name.lower())
        names.append(name)
    return names


def result_names(paths: Sequence[Path], named: Iterable[str]) -> dict[Path, str]:
    """What results call each image: its path below the folder that was named, otherwise its name."""
    folders = sorted((Path(name) for name in named if Path(name).is_dir()), key=lambda f: -len(f.parts))
    names = {}
    for path in paths:
        folder = next((f for f in folders if path.is_relative_to(f)), path.parent)
        names[path] = path.relative_to(folder).as_posix()
    if len(set(names.values())) < len(names):  # the same names in several folders: named from what they share
        shared = os.path.commonpath([path.absolute().parent for path in paths])
        names = {path: path.absolute().relative_to(shared).as_posix() for path in paths}
    return names


def image_ids_from(source: str | None, names: dict[Path, str]) -> dict[str, int | str]:
    """Image ids by name in the results, so that `maskconver pq` pairs them with that file's ground truth.

    Any COCO JSON with a list `images` will do, also of images without annotation.

    An image is the one of the file whose path has the most parts in common, counted from the end.

    Raises:
        ConfigError: an image is not in the file, or fits several of its images equally well.
    """
    if source is None:
        return {}
    rows: dict[str, list[tuple[tuple[str, ...], int | str]]] = {}
    for row in read_image_rows(source):
        parts = _parts(PurePosixPath(row.file_name.replace("\\", "/")))
        rows.setdefault(parts[0], []).append((parts, row.id))
    if unknown := [path.name for path in names if _parts(path)[0] not in rows]:
        raise ConfigError(f"{source} has no image {unknown[0]} ({len(unknown)} are missing in all)")
    ids = {}
    for path, name in names.items():
        own = _parts(path.absolute())
        common = [
            (sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(own, parts))), number)
            for parts, number in rows[own[0]]
        ]
        best = max(length for length, _ in common)
        fitting = [number for length, number in common if length == best]
        if len(fitting) > 1:
            raise ConfigError(f"{source}: several of its images are called {name}; name their folder as well")
        ids[name] = fitting[0]
    if len(set(ids.values())) < len(ids):
        raise ConfigError(f"{source}: several of the images would get the same id; predict them one by one")
    return ids


def _parts(path: PurePath) -> tuple[str, ...]:
    """Of a path, from its end; letters with accents in one form, as a Mac writes them in another (NFD)."""
    return tuple(unicodedata.normalize("NFC", part) for part in reversed(path.parts))
