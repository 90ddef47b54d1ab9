"""One run at a time: who is refused, and which locks count for nothing."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from maskconver.errors import ConfigError
from maskconver.io import lock
from maskconver.io.lock import hold

OTHER = """
import sys, time
from pathlib import Path
from maskconver.io.lock import hold
with hold(Path(sys.argv[1]), "the run"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_second_process_is_refused_and_the_lock_dies_with_the_first(tmp_path: Path) -> None:
    path = tmp_path / "new" / ".lock"
    other = subprocess.Popen([sys.executable, "-c", OTHER, path], stdout=subprocess.PIPE)
    try:
        assert other.stdout is not None and other.stdout.readline() == b"held\n"
        with pytest.raises(ConfigError, match=f"process {other.pid} on") as refused, hold(path, "the run"):
            pass
        assert "\n" not in str(refused.value)
    finally:
        other.kill()
        other.wait()
    assert path.exists()
    with hold(path, "the run"):
        assert json.loads(path.read_text()) == {"pid": os.getpid(), "host": socket.gethostname()}
    assert not path.exists()


def test_a_process_does_not_hold_a_lock_twice(tmp_path: Path) -> None:
    with hold(tmp_path / "a", "it"):
        with pytest.raises(ConfigError, match="by this process"), hold(tmp_path / "a", "it"):
            pass
        assert (tmp_path / "a").exists()


@pytest.mark.parametrize(("age", "taken"), [(0, False), (lock.STALE - 60, False), (lock.STALE + 1, True)])
def test_a_lock_of_another_machine_counts_as_long_as_it_shows_life(
    tmp_path: Path, age: int, taken: bool
) -> None:
    path = tmp_path / "a"
    path.write_text(json.dumps({"pid": 1, "host": "elsewhere"}))
    os.utime(path, (time.time() - age,) * 2)
    if taken:
        with hold(path, "it"):
            pass
    else:
        with pytest.raises(ConfigError, match="process 1 on elsewhere"), hold(path, "it"):
            pass
        assert path.exists()


@pytest.mark.parametrize("content", [b"", b"\xff\x00", b"[]", b'{"pid": "x"}'])
def test_a_lock_without_an_owner_is_taken_over(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    with hold(tmp_path / "a", "it"):
        pass


def test_a_sign_of_life_renews_the_time_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT", -1)
    with hold(tmp_path / "a", "it") as held:
        os.utime(tmp_path / "a", (0, 0))
        held.beat()
        assert (tmp_path / "a").stat().st_mtime > 1e9
        (tmp_path / "a").unlink()
        held.beat()  # the folder may vanish
