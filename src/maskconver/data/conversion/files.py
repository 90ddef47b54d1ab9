"""The files of a source: listed once, read in any usual encoding, images found by what annotations say."""

from __future__ import annotations

import json
import mmap
import os
import posixpath
import re
import stat
import unicodedata
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from ...core.files import IMAGE_SUFFIXES, LFS_FIX, LFS_POINTER, decoded
from ...errors import DataError, one_line
from ...io.sources import is_below
from .splits import folder_split


class Files:
    """All files of a source.

    Links that lead out of the source are not followed; hidden files are left out.

    Args:
        source: a folder, or one file (an annotation file; the folder it lies in is then the source).
        image_folder: where the images lie if not in the source.
        skip: a folder in the source that does not belong to it.
        shown: what messages call the source instead of its path.

    Attributes:
        root: the folder.
        only: the name of the file that was given; "" for a folder.
        names: of all files, relative to `root`, with `/`, sorted.
        refused: names of links that lead out.

    Raises:
        DataError: there is no such file or folder.
    """

    def __init__(
        self, source: Path, image_folder: Path | None = None, *, skip: Path | None = None, shown: str = ""
    ) -> None:
        if not source.exists():
            raise DataError("no such file or folder", where=str(source))
        if image_folder is not None and not image_folder.is_dir():
            raise DataError("no such folder (`image_folder`)", where=str(image_folder))
        self.root = source if source.is_dir() else source.parent
        self.only = "" if source.is_dir() else source.name
        self.refused: list[str] = []
        self.shown = shown or os.fspath(self.root)
        self.names = sorted(_walk(self.root, self.refused, skip))
        self.image_folder = image_folder
        self._heads: dict[str, bytes] = {}
        self._sets: dict[Path, frozenset[str]] = {}
        self._by_base: dict[str, list[tuple[Path, str]]] | None = None
        self._by_stem: dict[str, list[tuple[Path, str]]] | None = None
        self._folders: set[str] = set()  # that hold an image, at any depth

    def path(self, name: str) -> Path:
        """Where a file lies."""
        return self.root / name

    def where(self, name: str) -> str:
        """What messages call a file."""
        return os.path.join(self.shown, name) if name else self.shown  # noqa: PTH118

    def matching(self, *suffixes: str, below: str = "") -> list[str]:
        """Names with one of the endings (`.json`; upper case counts), below a folder; `only` alone if set."""
        names = [self.only] if self.only else self.names
        start = below and below.rstrip("/") + "/"
        return [n for n in names if n.lower().endswith(suffixes) and n.startswith(start)]

    def head(self, name: str, size: int = 4096) -> str:
        """The beginning of a file as text, for `Reader.detect`; "" where it cannot be read."""
        if name not in self._heads:
            try:
                with (self.root / name).open("rb") as file:
                    self._heads[name] = file.read(1 << 16)
            except OSError:
                self._heads[name] = b""
        return decoded(self._heads[name], loose=True)[:size]

    def first_of(self, name: str, *words: bytes) -> bytes:
        """The word that stands first in a file, however far from its beginning; b"" where none does."""
        pattern = re.compile(b"|".join(re.escape(w) for w in words))
        try:
            with (
                (self.root / name).open("rb") as file,
                mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as map_,
            ):
                found = pattern.search(map_)
                return found[0] if found else b""
        except (OSError, ValueError):  # also of an empty file
            return b""

    def pointers(self) -> list[str]:
        """The annotation files that are pointers of Git LFS."""
        found = []
        for name in self.matching(".json", ".xml", ".csv", ".txt", ".yaml", ".yml", ".zip"):
            with suppress(OSError):
                path = self.root / name
                if path.stat().st_size < 1024 and path.read_bytes().startswith(LFS_POINTER):
                    found.append(name)
        return found

    def text(self, name: str) -> str:
        """A text file in UTF-8 or UTF-16 (with or without byte order mark) or, failing that, Windows-1252.

        Raises:
            DataError: it cannot be read, or is a Git LFS pointer.
        """
        try:
            data = (self.root / name).read_bytes()
        except OSError as error:
            raise DataError(f"cannot be read ({one_line(error)})", where=self.where(name)) from None
        if data.startswith(LFS_POINTER):
            raise DataError("not an annotation", where=self.where(name), fix=LFS_FIX)
        return decoded(data)

    def json(self, name: str) -> Any:
        """The content of a JSON file; NaN and Infinity become floats.

        Raises:
            DataError: it cannot be read or is not JSON.
        """
        text = self.text(name)
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            what = "is empty" if not text.strip() else f"is not JSON ({one_line(error)})"
            raise DataError(what, where=self.where(name)) from None

    def image(self, name: str, *near: str, by_stem: bool = False) -> Path:
        """The image that an annotation calls `name`.

        Backslashes, drive letters, web addresses, absolute paths of another machine, folders too many or too
        few and letters of another case are put up with as long as one file fits best. One of another split
        does not fit where the annotation's own split has a folder.

        Args:
            name: as it stands in the annotation.
            near: folders (relative to `root`) where it is looked for first; `root` always is.
            by_stem: an image with another ending will do.

        Raises:
            DataError: no such image, several that fit equally well, or a link that leads out of the source;
                `kind` is `missing-image`, `ambiguous-image` or `link-out`.
        """
        plain = plain_name(name)
        if not plain:
            raise DataError("names no image", kind="missing-image")
        tops = [(self.root, here) for here in (*near, "")]
        tops += [(self.image_folder, "")] if self.image_folder else []
        for root, folder in tops:
            candidate = posixpath.normpath(posixpath.join(folder, plain))
            if candidate in self._known(root):
                return root / candidate
        self._index()
        assert self._by_base is not None and self._by_stem is not None
        key = _key(posixpath.basename(plain))
        found = self._by_base.get(key, [])
        if not found and by_stem:
            found = self._by_stem.get(PurePosixPath(key).stem if _is_image(key) else key, [])
        places = self._folders & {*near, posixpath.dirname(plain)}
        if splits := {folder_split(f"{place}/") for place in places} - {""}:
            found = [f for f in found if folder_split(f[1]) in ("", *splits)]
        best = _closest(plain, near, found)
        if len(best) > 1:
            names = ", ".join(n for _, n in best[:3])
            raise DataError(
                f'{len(best)} images fit the name "{name}": {names}',
                fix="name their folder in the annotation",
                kind="ambiguous-image",
            )
        if best:
            return best[0][0] / best[0][1]
        if any(_key(posixpath.basename(n)) == key or plain.startswith(n + "/") for n in self.refused):
            raise DataError(
                f'the image "{name}" is behind a link that leads out of the source',
                fix="name the folder it leads to with `image_folder`",
                kind="link-out",
            )
        if (path := path_in(name)) != name:
            try:
                return self.image(path, *near, by_stem=by_stem)
            except DataError as error:
                if error.kind != "missing-image":
                    raise
        other = self._by_stem.get(PurePosixPath(key).stem, [])
        fix = f"there is {other[0][1]}; name that one" if other else ""
        raise DataError(f'there is no image "{name}"', fix=fix, kind="missing-image")

    def image_names(self) -> list[str]:
        """Names of all images below `root`."""
        return [n for n in self.names if _is_image(n)]

    def has(self, name: str) -> bool:
        """Whether there is a file of exactly this name below `root`."""
        return name in self._known(self.root)

    def _known(self, root: Path) -> frozenset[str]:
        """The names below the source or the folder of images, links that lead out left out."""
        if root not in self._sets:
            names = self.names if root == self.root else _walk(root, [], None)
            self._sets[root] = frozenset(names)
        return self._sets[root]

    def _index(self) -> None:
        if self._by_base is not None:
            return
        self._by_base, self._by_stem = {}, {}
        roots = [(self.root, self.names)]
        if self.image_folder:
            roots.append((self.image_folder, sorted(self._known(self.image_folder))))
        for root, names in roots:
            for name in filter(_is_image, names):
                base = _key(posixpath.basename(name))
                self._by_base.setdefault(base, []).append((root, name))
                self._by_stem.setdefault(PurePosixPath(base).stem, []).append((root, name))
                self._folders.update(map(str, PurePosixPath(name).parents))


def plain_name(name: str) -> str:
    """A file name of an annotation with `/`, without a drive, `file://` and `..` in front."""
    name = re.sub(r"^file:/+", "/", name.strip()).replace("\\", "/")
    name = posixpath.normpath(re.sub(r"^[A-Za-z]:", "", name).lstrip("/")) if name else ""
    return re.sub(r"^(\.\./)+", "", name) if name not in (".", "..") else ""


def path_in(name: str) -> str:
    """The path in a web address, `%20` and the like read as the characters that they stand for."""
    with suppress(ValueError):  # no address, such as http://[
        name = urlsplit(name).path if is_address(name) else name
    return unquote(name)


def is_address(name: str) -> bool:
    """Whether an image is named by its address on the web."""
    return name.lower().startswith(("http://", "https://"))


def stem_of(name: str) -> str:
    """The last part of a name without its ending, by which files are paired; composed, unlike a Mac's."""
    return unicodedata.normalize("NFC", PurePosixPath(name).stem)


def _closest(plain: str, near: tuple[str, ...], found: list[tuple[Path, str]]) -> list[tuple[Path, str]]:
    """Those that share most of their last folders with the name, then with the folders it may lie in."""

    def shared(one: str, other: str) -> int:
        pairs = zip(reversed(one.lower().split("/")), reversed(other.lower().split("/")))
        count = 0
        for a, b in pairs:
            if a != b:
                break
            count += 1
        return count

    if len(found) < 2:
        return found
    ranks = [
        (shared(plain, name), max((len(n) for n in near if n and name.startswith(n + "/")), default=0))
        for _, name in found
    ]
    return [f for f, rank in zip(found, ranks) if rank == max(ranks)]


def _key(base: str) -> str:
    return unicodedata.normalize("NFC", base).lower()


def _is_image(name: str) -> bool:
    return posixpath.splitext(name)[1].lower() in IMAGE_SUFFIXES


def _walk(folder: Path, refused: list[str], skip: Path | None) -> Iterator[str]:
    top = os.path.realpath(folder)
    left_out = skip and os.path.realpath(skip)
    for root, folders, names in os.walk(folder, followlinks=True):
        here = os.path.realpath(root)
        prefix = "" if Path(root) == folder else Path(root).relative_to(folder).as_posix() + "/"
        kept = []
        for name in folders:
            full = os.path.join(root, name)  # noqa: PTH118 (hundreds of thousands of files)
            if name.startswith(".") or name == "__MACOSX" or os.path.realpath(full) == left_out:
                continue
            if os.path.islink(full):  # noqa: PTH114
                real = os.path.realpath(full)
                if not is_below(real, top):
                    refused.append(prefix + name)
                    continue
                if is_below(here, real):
                    continue
            kept.append(name)
        folders[:] = kept
        for name in names:
            if name.startswith("."):
                continue
            full = os.path.join(root, name)  # noqa: PTH118
            try:
                mode = os.lstat(full).st_mode
            except OSError:  # vanished
                continue
            if stat.S_ISLNK(mode) and not is_below(os.path.realpath(full), top):
                refused.append(prefix + name)
            elif stat.S_ISLNK(mode) or stat.S_ISREG(mode):  # no pipes, which would be waited for
                yield prefix + name
