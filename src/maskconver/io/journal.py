"""What is done of a large set of images: JSON lines, one file a shard, which survive a killed process."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ..core.categories import Categories
from ..core.files import atomic_path
from ..core.segmentation import Segmentation
from ..errors import ConfigError
from .lock import hold, lock_file
from .results import panoptic_json

PARTS = "parts"
"""The folder of the journals, beside `panoptic/`."""
LOCK = ".predict.lock"
"""Held by a run that is not one of several."""


@dataclass(frozen=True, slots=True)
class Task:
    """One image to be done: what results call it, the bytes of its file, and the stem of its results."""

    file_name: str
    size: int
    stem: str


@dataclass(frozen=True, slots=True)
class _Entry:
    """A line of a journal: its task, whether it failed, whether it has a PNG, and where it stands."""

    task: Task
    failed: bool
    masks: bool
    path: Path
    offset: int


class Journal:
    """The lines of one shard, and those of the others to read. See `open_journal`."""

    def __init__(self, folder: Path, own: IO[bytes], entries: dict[str, _Entry]) -> None:
        self._folder, self._own, self._entries = folder, own, entries

    def is_done(self, task: Task) -> bool:
        """Whether an image has been segmented, its file has the same size, and the PNG is there."""
        entry = self._entries.get(task.file_name)
        if entry is None or entry.failed or entry.task != task:
            return False
        return not entry.masks or (self._folder / "panoptic" / f"{task.stem}.png").is_file()

    def add(self, task: Task, result: Segmentation | None, *, masks: bool = False) -> None:
        """Append a line, once all files of the image are written.

        Args:
            task: the image.
            result: None where it failed.
            masks: whether it has a PNG in `panoptic/`.

        Raises:
            OSError: the disk is full.
        """
        row: dict[str, Any] = {"file_name": task.file_name, "bytes": task.size, "stem": task.stem}
        if result is None:
            row["failed"] = True
        elif masks:
            height, width = result.ids.shape
            row |= {"height": height, "width": width, "annotation": result.to_coco(0, f"{task.stem}.png")}
        _append(self._own, row)

    def merge(
        self,
        tasks: Iterable[Task],
        categories: Categories,
        ids: dict[str, int | str],
        *,
        masks: bool = True,
        then: Callable[[Iterable[tuple[Task, dict[str, Any]]]], None] = lambda rows: None,
    ) -> int:
        """Write `panoptic.json` from the lines of all shards, if every image has been tried.

        Args:
            tasks: all images, in the order they get in the JSON.
            categories: of the results.
            ids: image ids by file name; the others are numbered from 1.
            masks: whether there is a `panoptic.json`.
            then: what else is made of all results; gets the annotations of the images that have a PNG.

        Returns:
            How many images are left to do; the JSON is written if that is 0.

        Raises:
            OSError: it cannot be written; an earlier one is then as it was.
        """
        with _start(self._folder / PARTS):  # nobody begins a shard anew meanwhile
            entries = _read_all(self._folder / PARTS)
            found = [(entries.get(task.file_name), task) for task in tasks]
            if left := sum(entry is None or entry.task != task for entry, task in found):
                return left
            if masks:
                with panoptic_json(self._folder / "panoptic.json", categories, ids) as add:
                    for entry, _ in found:
                        if entry and entry.masks:
                            row = _line(entry)
                            add(row["annotation"], row["file_name"], (row["height"], row["width"]))
            then((task, _line(entry)["annotation"]) for entry, task in found if entry and entry.masks)
            own = Path(self._own.name)
            if any(other != own and _is_locked(other) for other in own.parent.glob("*-of-*.jsonl")):
                return 0
            for name in ("panoptic", "overlays", "labels", "geojson"):
                for remains in (self._folder / name).glob(".*.????????.*"):  # of processes that were killed
                    remains.unlink(missing_ok=True)
        return 0


@contextmanager
def open_journal(
    folder: Path, shard: tuple[int, int], settings: dict[str, Any], *, resume: bool
) -> Iterator[Journal]:
    """Takes a shard of the images whose results go to a folder; nobody else has it while the block runs.

    The lock is the system's, on the shard's file, so that it ends with the process, however that ends.

    Args:
        folder: of the results; the journals lie in its `parts/`.
        shard: number from 1, and how many there are.
        settings: plain values that decide what results are; a folder holds results of one set of them.
        resume: false begins this shard anew.

    Raises:
        ConfigError: the folder has results of other settings; the shard, or one of another number of shards,
            is at work.
        OSError: the folder cannot be written, or its file system has no locks.
    """
    parts = folder / PARTS
    if (folder / LOCK).exists():  # a run without shards is at work, or was killed
        with hold(folder / LOCK, str(folder)):
            pass
    parts.mkdir(parents=True, exist_ok=True)
    path = parts / f"{shard[0]}-of-{shard[1]}.jsonl"
    with path.open("ab+", buffering=0) as own:
        with _start(parts):
            for other in parts.glob("*-of-*.jsonl"):
                if not other.stem.endswith(f"-of-{shard[1]}") and _is_locked(other):
                    raise ConfigError(
                        f"{folder}: shard {other.stem.replace('-of-', '/')} is at work ({_owner(other)}); "
                        "give all processes the same number of shards"
                    )
            if not lock_file(own):
                raise ConfigError(f"{folder}: shard {shard[0]}/{shard[1]} is at work ({_owner(path)})")
            _require_same(parts / "settings.json", settings, folder)
            entries: dict[str, _Entry] = {}
            if resume:
                entries = _read_all(parts)
            else:
                own.truncate(0)
            own.seek(max(own.seek(0, os.SEEK_END) - 1, 0))
            if own.read(1) not in (b"", b"\n"):
                own.write(b"\n")  # the process was killed within a line
            _append(own, {"pid": os.getpid(), "host": socket.gethostname()})
        yield Journal(folder, own, entries)


def _line(entry: _Entry) -> dict[str, Any]:
    with entry.path.open("rb") as file:
        file.seek(entry.offset)
        row: dict[str, Any] = json.loads(file.readline())
    return row


def _append(file: IO[bytes], row: dict[str, Any]) -> None:
    line = json.dumps(row, ensure_ascii=False).encode() + b"\n"
    if file.write(line) < len(line):
        raise OSError(28, "No space left on device", file.name)


def _read_all(parts: Path) -> dict[str, _Entry]:
    """The newest line of every image; one that failed does not replace one that did not."""
    entries: dict[str, _Entry] = {}
    for path in sorted(parts.glob("*-of-*.jsonl")):
        offset = 0
        with path.open("rb") as file:
            for line in file:
                with suppress(ValueError, KeyError, TypeError):  # cut off, or who wrote it
                    row = json.loads(line)
                    task = Task(row["file_name"], row["bytes"], row["stem"])
                    entry = _Entry(task, "failed" in row, "annotation" in row, path, offset)
                    before = entries.get(task.file_name)
                    if not entry.failed or before is None or before.failed or before.task != task:
                        entries[task.file_name] = entry
                offset += len(line)
    return entries


def _require_same(path: Path, settings: dict[str, Any], folder: Path) -> None:
    settings = json.loads(json.dumps(settings))
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        before = None
    if not isinstance(before, dict):
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(settings, indent=1), encoding="utf-8")
    elif other := sorted(k for k in before | settings if before.get(k) != settings.get(k)):
        raise ConfigError(
            f"{folder} holds results of other settings ({', '.join(other)}); choose another folder, "
            f"or delete {path.parent} to start again"
        )


@contextmanager
def _start(parts: Path) -> Iterator[None]:
    """One process at a time begins a shard or merges."""
    with (parts / "start.lock").open("ab+", buffering=0) as file:
        lock_file(file, wait=True)
        yield


def _is_locked(path: Path) -> bool:
    with path.open("ab+", buffering=0) as file:
        return not lock_file(file)


def _owner(path: Path) -> str:
    """The process that opened a journal last."""
    found = "another process"
    with suppress(OSError), path.open("rb") as file:
        for line in file:
            with suppress(ValueError, KeyError, TypeError):
                row = json.loads(line)
                found = f"process {row['pid']} on {row['host']}"
    return found
