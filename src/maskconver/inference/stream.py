"""A folder as a small pipeline: reading ahead and writing behind in threads, and the time each stage takes.

Pillow, NumPy and zlib let other threads run while they work, so threads are enough.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import Future

Item = TypeVar("Item")
Result = TypeVar("Result")


def look_ahead(
    work: Callable[[Item], Result], items: Iterable[Item], ahead: int = 2, *, threads: int = 1
) -> Generator[tuple[Item, Future[Result]], None, None]:
    """Do `work` on every item in background threads while the caller is busy with earlier ones.

    Args:
        work: runs in a background thread.
        items: gone through in the caller's thread, never further than `ahead` past the item yielded last.
        ahead: how many items are begun before the caller asks for them, 0 or more.
        threads: how many run at a time, 1 or more.

    Yields:
        Each item and the future of its result, in the order of the items. What is not yet begun when the
        caller stops early is never begun.
    """
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(threads, thread_name_prefix="look-ahead") as pool:
        begun: deque[tuple[Item, Future[Result]]] = deque()
        try:
            for item in items:
                begun.append((item, pool.submit(work, item)))
                if len(begun) > ahead:
                    yield begun.popleft()
            while begun:
                yield begun.popleft()
        finally:
            for _, future in begun:
                future.cancel()


@contextmanager
def behind(work: Callable[..., None]) -> Iterator[Callable[..., None]]:
    """Do `work` in a background thread, one call after the other.

    Yields:
        A function that hands over the arguments of one call. It waits for the call before, so that only one
        is ever in flight, and raises what that one raised; the end of the block does so for the last call.
        When the block ends with an exception, the call in flight is finished first.
    """
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1, thread_name_prefix="behind") as pool:
        last: Future[None] | None = None

        def hand_over(*arguments: Any) -> None:
            nonlocal last
            if last is not None:
                last.result()
            last = pool.submit(work, *arguments)

        yield hand_over
        if last is not None:
            last.result()


@contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Adds the wall time of the block, in seconds, to an entry of a dictionary."""
    start = perf_counter()
    try:
        yield
    finally:
        seconds[stage] = seconds.get(stage, 0.0) + perf_counter() - start
