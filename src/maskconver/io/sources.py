"""Files of a data set by name, from a folder or from a .zip."""

from __future__ import annotations

import glob
import os
import threading
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import DataError, ImageError
from .images import SUFFIXES


class FileSource:
    """A folder or a .zip from which files are read by the name that an annotation file gives.

    A zip is opened at the first use in each process, so that an instance can be pickled to loader workers and
    survives a fork. A zip whose files all lie in one folder (as COCO's do) is addressed without that folder.

    Args:
        path: the folder or the .zip.

    Raises:
        DataError: there is neither a folder nor a zip there.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.is_zip = self.path.is_file()
        if self.is_zip and not zipfile.is_zipfile(self.path):
            raise DataError(f"{self.path}: neither a folder nor a .zip (or the zip is cut off)")
        if not self.is_zip and not self.path.is_dir():
            raise DataError(f"{self.path}: no such folder or .zip")
        self._open: tuple[int, zipfile.ZipFile, str] | None = None
        self._lock = threading.Lock()

    def read(self, name: str) -> bytes:
        """The bytes of a file.

        Raises:
            DataError: no such file (says which similar one there is), or `name` leads out of the folder.
        """
        self._refuse_outside(name)
        try:
            if self.is_zip:
                archive, prefix = self._archive()
                return archive.read(prefix + name)
            return (self.path / name).read_bytes()
        except (KeyError, FileNotFoundError):
            raise DataError(f"{self.where(name)}: no such file{self._similar(name)}") from None
        except (zipfile.BadZipFile, OSError) as error:
            raise DataError(f"{self.where(name)}: cannot be read ({error})") from None

    def exists(self, name: str) -> bool:
        """Whether there is a file of that name (false for names that lead out of the folder)."""
        if leads_outside(name):
            return False
        if self.is_zip:
            archive, prefix = self._archive()
            return prefix + name in archive.NameToInfo
        return (self.path / name).is_file()

    def names(self) -> list[str]:
        """All files below, sorted, with `/` between folders; hidden ones are left out."""
        if self.is_zip:
            archive, prefix = self._archive()
            found = [n.removeprefix(prefix) for n in _files(archive)]
        else:
            found = [
                Path(root, name).relative_to(self.path).as_posix()
                for root, _, names in os.walk(self.path)
                for name in names
            ]
        return sorted(n for n in found if not any(part.startswith(".") for part in n.split("/")))

    def where(self, name: str) -> str:
        """What messages call a file."""
        return f"{self.path}:{name}" if self.is_zip else os.fspath(self.path / name)

    def _archive(self) -> tuple[zipfile.ZipFile, str]:
        with self._lock:
            if self._open is None or self._open[0] != os.getpid():
                archive = zipfile.ZipFile(self.path)
                tops = {name.split("/", 1)[0] if "/" in name else "" for name in _files(archive)}
                prefix = tops.pop() + "/" if len(tops) == 1 and "" not in tops else ""
                self._open = (os.getpid(), archive, prefix)
            return self._open[1], self._open[2]

    def _refuse_outside(self, name: str) -> None:
        if leads_outside(name):
            raise DataError(f'file name "{name}" leads out of {self.path}; names must stay inside the folder')

    def _similar(self, name: str) -> str:
        stem = PurePosixPath(name).with_suffix("")
        for suffix in (".png", ".jpg", ".jpeg", ".JPG", ".PNG"):
            if self.exists(f"{stem}{suffix}"):
                return f"; there is {stem.name}{suffix}, so file_name in the JSON is to be put right"
        return ""

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "is_zip": self.is_zip}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _open=None, _lock=threading.Lock())

    def __repr__(self) -> str:
        return f"FileSource({os.fspath(self.path)!r})"


def leads_outside(name: str) -> bool:
    """Whether a file name of an annotation is empty, absolute or climbs out of its folder."""
    return (
        not name
        or "\\" in name
        or "\0" in name
        or ":" in name[:2]
        or name.startswith("/")
        or ".." in name.split("/")
    )


def _files(archive: zipfile.ZipFile) -> list[str]:
    return [n for n in archive.namelist() if not n.endswith("/") and not n.startswith("__MACOSX/")]


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
