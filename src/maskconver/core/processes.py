"""Several processes for work on many files."""

from __future__ import annotations

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
from .malloc import keep_freed_memory


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
