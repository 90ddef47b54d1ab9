"""The container: what its file names is there; built and run where a docker daemon answers."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

ROOT = Path(__file__).parents[2]


def test_what_the_container_copies_is_there_and_not_ignored() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    kept = re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(encoding="utf-8"), re.M)
    copied = [word for line in re.findall(r"^COPY (.+)$", text, re.M) for word in line.split()[:-1]]
    assert copied and set(copied) <= set(kept)
    assert all((ROOT / name).exists() for name in copied)
    extras = re.findall(r'"\.\[([\w,]+)\]"', text)[0].split(",")
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert all(re.search(rf"^{extra} = ", project, re.M) for extra in extras) and "train" not in extras


@pytest.mark.slow
def test_the_container_serves_a_model() -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "info"], capture_output=True, timeout=60).returncode:
        pytest.skip("no docker daemon answers on this machine")
    subprocess.run([docker, "build", "-q", "-t", "maskconver-test", str(ROOT)], check=True, timeout=900)
    words = [docker, "run", "--rm", "-d", "-p", "127.0.0.1::8000", "maskconver-test"]
    name = subprocess.run(words, check=True, capture_output=True, text=True, timeout=60).stdout.strip()
    try:
        port = subprocess.run(
            [docker, "port", name, "8000"], capture_output=True, text=True, check=True
        ).stdout
        address = f"http://{port.split()[0]}"
        for _ in range(60):
            try:
                assert b'"ok"' in urlopen(f"{address}/healthz", timeout=2).read()
                break
            except OSError:
                time.sleep(1)
        data = (ROOT / "docs/images/first.jpg").read_bytes()
        with urlopen(Request(f"{address}/v1/segment?format=csv", data, method="POST"), timeout=120) as answer:
            assert answer.read().count(b"\n") > 2
    finally:
        subprocess.run([docker, "rm", "-f", name], capture_output=True, timeout=60)
