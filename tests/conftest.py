"""Where test data lies."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# As `make test` has it: several threads round sums in another order, which decides near ties of random nets.
os.environ.setdefault("OMP_NUM_THREADS", "1")

CASES = Path(__file__).parent / "golden" / "cases"
SHARED = Path(os.environ.get("MASKCONVER_SHARED", Path(__file__).parents[2] / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with other people's images; tests that need it skip where it is absent."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"needs the shared data folder (MASKCONVER_SHARED, here {SHARED}), which is not here")
    return SHARED
