"""Files of a data set by name, from a folder or a .zip; and the images that paths, folders and globs name."""

from __future__ import annotations

import glob
import os
import posixpath
import threading
import unicodedata
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from ..core.files import IMAGE_SUFFIXES as SUFFIXES
from ..core.files import require_content
from ..errors import DataError, ImageError, one_line

UNREAD = frozenset(
    {".heic", ".heif", ".avif", ".jp2", ".jxl", ".psd", ".dng", ".cr2", ".nef", ".arw"}
    | {".dcm", ".svs", ".ndpi", ".czi"}
)
"""Endings of images that are not read."""
LARGEST = 1 << 30
"""Bytes of one file in a zip, at most."""


class FileSource:
    """A folder or a .zip from which files are read by the name that an annotation file gives.

    A zip is opened at the first use in each process, so that an instance can be pickled to loader workers and
    survives a fork. The folders that all images of a zip lie in may be left out of names, as with COCO's.
    Names may be in another Unicode form than those on disk (macOS), and linked folders are followed.

    Args:
        path: the folder or the .zip.

    Raises:
        DataError: there is neither a folder nor a zip there.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.is_zip = self.path.is_file()
        if self.is_zip and not zipfile.is_zipfile(self.path):
            require_content(self.path, "a zip", DataError)
            raise DataError("neither a folder nor a .zip (or the zip is cut off)", where=str(self.path))
        if not self.is_zip and not self.path.is_dir():
            raise DataError("no such folder or .zip", where=str(self.path))
        self._open: tuple[int, _Archive] | None = None
        self._lock = threading.Lock()

    def read(self, name: str) -> bytes:
        """The bytes of a file.

        Raises:
            DataError: no such file (says which similar one there is), or `name` leads out of the folder.
        """
        if fault := name_fault(name):
            raise DataError(f'the file name "{name}" {fault}', where=str(self.path))
        found = self.find(name)
        if found is None:
            raise DataError("no such file", where=self.where(name), fix=self._similar(name))
        try:
            if not self.is_zip:
                return (self.path / found).read_bytes()
            archive = self._archive()
            entry = archive.file.getinfo(archive.keys[found])
            if entry.file_size > LARGEST:
                what = f"{entry.file_size / 1e9:.1f} GB in a zip are too much to read at once"
                raise DataError(what, where=self.where(name), fix="unpack the zip and name the folder")
            return archive.file.read(entry)
        except DataError:
            raise
        except Exception as error:  # what is damaged in a zip can raise almost anything
            raise DataError(f"cannot be read ({one_line(error)})", where=self.where(name)) from None

    def exists(self, name: str) -> bool:
        """Whether there is a file of that name (false for names that lead out of the folder)."""
        return self.find(name) is not None

    def find(self, name: str) -> str | None:
        """The file that a name of an annotation means, as `names` has it; None where there is none."""
        if name_fault(name):
            return None
        plain = posixpath.normpath(name)
        for form in dict.fromkeys((plain, *(unicodedata.normalize(f, plain) for f in ("NFC", "NFD")))):
            found = self._archive().find(form) if self.is_zip else form
            if found is not None and (self.is_zip or (self.path / form).is_file()):
                return found
        return None

    def names(self) -> list[str]:
        """All files below, sorted, with `/` between folders; hidden ones are left out.

        Of a zip without the folders that all its images lie in.
        """
        found = [*self._archive().keys] if self.is_zip else [*_walk(self.path)]
        return sorted(n for n in found if not _is_hidden(n))

    def where(self, name: str) -> str:
        """What messages call a file."""
        return f"{self.path}:{name}" if self.is_zip else os.fspath(self.path / name)

    def _archive(self) -> _Archive:
        with self._lock:
            if self._open is None or self._open[0] != os.getpid():
                try:
                    self._open = (os.getpid(), _Archive(self.path))
                except Exception as error:  # a damaged directory can raise almost anything
                    what = f"a damaged zip ({one_line(error)})"
                    raise DataError(what, where=str(self.path), fix="copy or download it again") from None
            return self._open[1]

    def _similar(self, name: str) -> str:
        """What to do about a file that is not there: one of another ending or in another folder is."""
        stem = PurePosixPath(name).with_suffix("")
        for suffix in (".png", ".jpg", ".jpeg", ".JPG", ".PNG"):
            if self.exists(f"{stem}{suffix}"):
                return f"there is {stem.name}{suffix}, so correct file_name in the JSON"
        parts = name.split("/")
        for k in range(1, len(parts)):
            if self.exists(tail := "/".join(parts[k:])):
                return f'there is {tail}, so leave "{"/".join(parts[:k])}/" out of file_name in the JSON'
        return ""

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "is_zip": self.is_zip}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _open=None, _lock=threading.Lock())

    def __repr__(self) -> str:
        return f"FileSource({os.fspath(self.path)!r})"


class _Archive:
    """An open zip.

    Attributes:
        file: the zip.
        prefixes: the folder that all its images lie in, then those above it, with `/` at the end, and "".
        keys: the zip's own name of each file, by its name as `FileSource.names` gives it.
    """

    def __init__(self, path: Path) -> None:
        self.file = zipfile.ZipFile(path)
        every = {zip_name(entry): entry.filename for entry in self.file.infolist()}
        every = {n: own for n, own in every.items() if not n.endswith("/") and not n.startswith("__MACOSX/")}
        shown = [n for n in every if not _is_hidden(n)]
        images = [n for n in shown if PurePosixPath(n).suffix.lower() in SUFFIXES] or shown
        common = posixpath.commonpath([posixpath.dirname(n) for n in images]) if images else ""
        parts = common.split("/") if common else []
        self.prefixes = ["/".join(parts[:k]) + "/" for k in range(len(parts), 0, -1)] + [""]
        top = self.prefixes[0]
        self.keys = {n.removeprefix(top) if n.startswith(top) else f"/{n}": key for n, key in every.items()}

    def find(self, name: str) -> str | None:
        """The name in `keys` of a file that is named with or without some of the common folders."""
        top = self.prefixes[0]
        for prefix in self.prefixes:
            full = prefix + name
            found = full.removeprefix(top) if full.startswith(top) else f"/{full}"
            if found in self.keys:
                return found
        return None


def plain_stem(stem: str) -> str:
    """A name without ending (`A.jpg` of `A.jpg.png`) in lower case, and without one more ending of images."""
    path = PurePosixPath(stem.lower())
    return str(path.with_suffix("")) if path.suffix in SUFFIXES else str(path)


def zip_name(entry: zipfile.ZipInfo) -> str:
    """The name of a zip's entry, with `/`; a folder ends with it.

    Some programs for Windows write backslashes, and a Mac UTF-8 without saying so.
    """
    name = entry.filename
    if not entry.flag_bits & 0x800:
        with suppress(UnicodeError):
            name = name.encode("cp437").decode("utf-8")
    return name.replace("\\", "/")


def name_fault(name: str) -> str:
    """What is wrong with a file name of an annotation, "" for nothing: it must stay inside its folder."""
    if not name:
        return "is empty"
    if "\0" in name:
        return "holds a zero byte"
    if "\\" in name or ":" in name[1:2]:
        return "is a Windows path; write / between folders, below the folder of the images"
    if name.startswith("/"):
        return "is an absolute path; write the path below the folder of the images"
    return "leads out of its folder" if ".." in name.split("/") else ""


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def _walk(folder: Path) -> Iterator[str]:
    """All files below, relative, with `/`; no hidden folders; links are followed, but not in circles."""
    for root, folders, names in os.walk(folder, followlinks=True):
        here = os.path.realpath(root)
        folders[:] = [
            f
            for f in folders
            if not f.startswith(".") and not is_below(here, os.path.realpath(Path(root, f)))
        ]
        yield from (Path(root, name).relative_to(folder).as_posix() for name in names)


def is_below(path: str, folder: str) -> bool:
    """Whether a path without links is a folder or lies in it."""
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def list_images(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[Path]:
    """All images that files, folders (searched to the bottom) and globs name.

    A file named outright is taken whatever its ending; in folders and globs the ending decides. Hidden files
    and folders are passed over.

    Returns:
        Sorted paths, each once.

    Raises:
        ImageError: a path does not exist, a glob matches nothing, or a folder holds no image.
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
            here = set(_images_below(Path(text)))
            if not here:
                raise ImageError(f"no image in this folder (looked for {_endings()})", where=text)
        elif glob.has_magic(text):
            here = set(_matches(text))
            if not here:
                raise ImageError(
                    "no image matches; check the quotes and the folder the pattern starts in", where=text
                )
        else:
            raise ImageError("no such file or folder", where=text)
        found |= here
    if not found:
        raise ImageError("no image given; name files, folders or globs")
    return sorted(found)


def _images_below(folder: Path) -> Iterator[Path]:
    for name in _walk(folder):
        if not _is_hidden(name) and Path(name).suffix.lower() in SUFFIXES and not (folder / name).is_fifo():
            yield folder / name


def unread_images(paths: Iterable[str]) -> list[str]:
    """The images in folders whose kinds are not read, so that `list_images` passes them over; sorted."""
    folders = [Path(path) for path in paths if Path(path).is_dir()]
    return sorted(
        os.fspath(folder / name)
        for folder in folders
        for name in _walk(folder)
        if Path(name).suffix.lower() in UNREAD and not _is_hidden(name)
    )


def _matches(pattern: str) -> Iterator[Path]:
    wanted = SUFFIXES | {Path(pattern).suffix.lower()} - {""}
    path = Path(pattern)
    there = next((p for p in path.parents if p.is_dir()), None)  # brackets in its name are no pattern
    if there is not None and glob.has_magic(os.fspath(there)):
        pattern = os.path.join(glob.escape(os.fspath(there)), path.relative_to(there))  # noqa: PTH118
    for match in map(Path, glob.glob(pattern, recursive=True)):  # noqa: PTH207 (Path.glob has no rooted patterns)
        if match.is_dir():
            yield from _images_below(match)
        elif match.suffix.lower() in wanted and not match.is_fifo():  # it would be waited for
            yield match


def _endings() -> str:
    return ", ".join(sorted(SUFFIXES))
