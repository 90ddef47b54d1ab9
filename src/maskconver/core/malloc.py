"""How glibc keeps freed memory."""

from __future__ import annotations

import ctypes
import sys

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
