"""One run at a time in a folder: a lock file that names its process and never outlives it."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from ..errors import ConfigError

STALE = 600  # seconds without a sign of life after which a lock of another machine counts for nothing
BEAT = 30  # seconds between signs of life
_held: set[str] = set()  # by this process, to which its own locks are open


class Lock:
    """A lock that is held; `beat` tells other machines that its process is alive."""

    def __init__(self, path: Path) -> None:
        self.path, self._last = path, time.monotonic()

    def beat(self) -> None:
        """A sign of life; costs nothing when called often."""
        if time.monotonic() - self._last > BEAT:
            self._last = time.monotonic()
            with suppress(OSError):
                os.utime(self.path)


@contextmanager
def hold(path: Path, what: str) -> Iterator[Lock]:
    """Holds a lock file while the block runs; its folder is made.

    On one machine the lock is the system's: it ends with the process, however that ends, so that a file left
    behind by a killed process is no obstacle. Of a process on another machine, whose lock the file system may
    not show, the file's time counts: after ten minutes without a sign of life the lock is taken over.

    Args:
        path: the lock file; it is removed at the end.
        what: what must not be written twice, for the message.

    Raises:
        ConfigError: another process holds it.
        OSError: the file cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    real = os.path.realpath(path)
    if real in _held:
        raise ConfigError(f"{what} is being written by this process already", fix="wait until it is done")
    file = _opened(path)
    while file is None:
        file = _opened(path)
    with file:
        owner = _owner(file)
        if owner is not None:
            raise ConfigError(
                f"{what} is being written by {owner}",
                fix=f"wait until it is done, or choose another folder; if it is not at work, delete {path}",
            )
        _held.add(real)
        try:
            file.seek(0)
            file.truncate()
            file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
            yield Lock(path)
        finally:
            _held.discard(real)
            with suppress(OSError):
                path.unlink()


def _opened(path: Path) -> IO[bytes] | None:
    """The lock file; None where its last owner has removed it meanwhile."""
    file = path.open("ab+", buffering=0)
    try:
        if not lock_file(file, forks=False):
            return file
        with suppress(FileNotFoundError):
            if sys.platform == "win32" or path.stat().st_ino == os.fstat(file.fileno()).st_ino:
                return file
    except BaseException:
        file.close()
        raise
    file.close()
    return None


def _owner(file: IO[bytes]) -> str | None:
    """Who holds a lock file, None for nobody else."""
    mine = lock_file(file, forks=False)
    file.seek(0)
    try:
        row = json.loads(file.read())
        pid, host = int(row["pid"]), str(row["host"])
    except (ValueError, KeyError, TypeError):
        return None if mine else "another process"
    name = f"process {pid} on {host}"
    if not mine:
        return name
    quiet = time.time() - os.fstat(file.fileno()).st_mtime
    return name if host != socket.gethostname() and quiet < STALE else None


def lock_file(file: IO[bytes], *, wait: bool = False, forks: bool = True) -> bool:
    """Lock an open file until it is closed; false if another process has it.

    Args:
        file: open for reading and writing.
        wait: until it is free.
        forks: whether processes that are forked keep the lock, too. Without, closing any other handle of
            the file in this process ends it.

    Raises:
        OSError: the file system has no locks.
    """
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(1 << 30)  # beyond the content, which others may read
            msvcrt.locking(file.fileno(), msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            act = fcntl.flock if forks else fcntl.lockf
            act(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except (BlockingIOError, PermissionError):
        return False
    return True
