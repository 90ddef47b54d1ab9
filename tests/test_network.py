"""Nothing goes to the network unless it is asked for: import, prediction and training work without."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from maskconver.data.synth.write import write_dataset

# Any use of a socket for the network ends the process. Sockets between processes of this machine are allowed.
WITHOUT = """
import os, socket, sys

def refuse(event, args):
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.sendto"):
        os.write(2, f"network: {event} {args}\\n".encode()); os._exit(99)
    if event == "socket.connect" and args[0].family != socket.AF_UNIX:
        os.write(2, f"network: {event} {args[1:]}\\n".encode()); os._exit(99)

sys.addaudithook(refuse)
"""


def run(code: str, folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT + code], cwd=folder, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_test_sees_a_connection(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="network: socket"):
        run("import urllib.request; urllib.request.urlopen('http://127.0.0.1:9')", tmp_path)


def test_import_check_and_prediction_need_no_network(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", "cells", 2, size=(64, 64))
    model = "nuclei" if find_spec("onnxruntime") or find_spec("torch") else None
    code = "import maskconver as mc; from maskconver.cli.main import main\n"
    code += "assert main(['data', 'check', 'data']) == 0\n"
    if model:
        code += "assert main(['predict', 'nuclei', 'data/images', '--out', 'out', '--labels']) == 0\n"
    run(code, tmp_path)


def test_training_needs_no_network(tmp_path: Path) -> None:
    pytest.importorskip("maskconver.training.run", exc_type=ImportError)
    for split in ("train", "val"):
        write_dataset(tmp_path / "data", "cells", 2, size=(64, 64), split=split)
    options = [
        *("--model.name=maskconver_mobile_dense_512", "--model.input.size=[64,64]", "--model.filters=16"),
        *("--model.embedding_dim=16", "--model.proposals=20", "--data.batch_size=2", "--data.workers=0"),
        *("--steps=2", "--schedule.warmup=1", "--threads=1", "--device=cpu"),
    ]
    argv = ["train", "--data=data", "--out=run", *options]
    run(f"from maskconver.cli.main import main; assert main({argv}) == 0", tmp_path)
