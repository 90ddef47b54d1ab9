"""Keeps what libraries print for their developers off the terminal."""

from __future__ import annotations

import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout


@contextmanager
def silenced() -> Iterator[None]:
    """Nothing that is written to the process's standard error shows, also from C++.

    For calls whose errors are raised, and that start no thread with something to say.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(nowhere)
        os.close(kept)


@contextmanager
def quiet() -> Iterator[None]:
    """As `silenced`, and no log below errors, no warnings and no prints or progress bars of Python code.

    For the main thread alone: these settings are those of the whole process.
    """
    level, said = logging.root.manager.disable, io.StringIO()
    logging.disable(logging.WARNING)
    try:
        with silenced(), redirect_stdout(said), redirect_stderr(said), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
