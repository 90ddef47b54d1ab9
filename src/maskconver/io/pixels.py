"""What is worth knowing about a picture that was read all the same."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class ImageWarning(UserWarning):
    """A picture was read, but perhaps not as its owner expects; the text says what can be done."""


_kept_warnings: ContextVar[list[str] | None] = ContextVar("_kept_warnings", default=None)


@contextmanager
def kept_warnings() -> Iterator[list[str]]:
    """Keeps the texts of the `ImageWarning`s of the block, of this thread only, instead of giving them.

    Python's own `warnings.catch_warnings` changes the whole process and is not for threads.
    """
    texts: list[str] = []
    token = _kept_warnings.set(texts)
    try:
        yield texts
    finally:
        _kept_warnings.reset(token)


def warn_about(text: str, stacklevel: int = 2) -> None:
    """Gives an `ImageWarning`, or keeps it for the `kept_warnings` around the caller."""
    texts = _kept_warnings.get()
    if texts is None:
        warnings.warn(text, ImageWarning, stacklevel=stacklevel + 1)
    else:
        texts.append(text)
