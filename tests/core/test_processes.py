"""Processes that end early are told in one line that names what to do."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from maskconver.core.processes import process_pool
from maskconver.errors import MaskconverError


def die(_: int) -> None:
    os._exit(3)


def test_a_process_that_dies_is_told() -> None:
    with pytest.raises(MaskconverError, match=r"ended early.*__main__"), process_pool(2) as pool:
        list(pool.map(die, range(2)))


def test_a_script_without_the_guard_ends_with_one_line_that_names_it(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import threading, sys\n"
        "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"  # so that nothing is forked
        "from maskconver.core.processes import process_pool\n"
        "with process_pool(2) as pool:\n"
        "    print(list(pool.map(abs, [1, 2])))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    # The interpreter may add a warning of its own below it.
    told = [
        line for line in done.stderr.splitlines() if line.startswith("maskconver.errors.MaskconverError: ")
    ]
    assert len(told) == 1
    assert '`if __name__ == "__main__":`' in told[0]


def signals(_: int) -> list[bool]:
    return [signal.getsignal(n) == signal.SIG_IGN for n in (signal.SIGINT, signal.SIGTERM)]


def test_signals_to_all_processes_are_left_to_the_main_one() -> None:
    with process_pool(1) as pool:
        assert list(pool.map(signals, range(2))) == [[True, True]] * 2
