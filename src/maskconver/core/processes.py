"""Several processes for work on many files."""

from __future__ import annotations

import ctypes
import multiprocessing
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from ..errors import MaskconverError

# Of mallopt(3). Freed blocks of up to KEPT bytes are used again, and not given back to the system each time.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
KEPT = 32 << 20


def set_malloc(**options: int) -> None:
    """Sets options of glibc's malloc by name, such as `M_ARENA_MAX=1`; nothing with another C library."""
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        for name, value in options.items():
            mallopt(globals()[name], value)


def keep_freed_memory() -> None:
    """Has this process keep some freed memory for the next image: the system takes long to give new pages."""
    set_malloc(M_MMAP_THRESHOLD=KEPT, M_TRIM_THRESHOLD=4 * KEPT)


def leave_signals(*_: Any) -> None:
    """Has a worker process pass over Ctrl-C and SIGTERM.

    Terminals and job schedulers send them to all processes at once; the main one ends its workers in order.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _begin(initializer: Callable[..., Any] | None, initargs: tuple[Any, ...]) -> None:
    leave_signals()
    keep_freed_memory()
    if initializer:
        initializer(*initargs)


@contextmanager
def process_pool(
    processes: int, initializer: Callable[..., Any] | None = None, initargs: tuple[Any, ...] = ()
) -> Iterator[ProcessPoolExecutor]:
    """A pool whose processes are forked where that is safe, and started anew elsewhere.

    A script that starts processes needs the usual `if __name__ == "__main__":` where they are started anew.

    Args:
        processes: how many.
        initializer, initargs: called once in each process.

    Raises:
        MaskconverError: a process ended without an answer.
    """
    # Forking costs least, but is safe only where nothing else runs in this process.
    alone = threading.active_count() == 1 and "torch" not in sys.modules and sys.platform == "linux"
    context = multiprocessing.get_context("fork" if alone else "spawn")
    with ProcessPoolExecutor(processes, context, _begin, (initializer, initargs)) as pool:
        try:
            yield pool
        except BrokenProcessPool:
            raise MaskconverError(
                f"one of {processes} processes ended early, perhaps because memory ran out; use fewer. "
                'A script of your own must call this below `if __name__ == "__main__":`'
            ) from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
