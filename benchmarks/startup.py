"""How long `import maskconver`, `maskconver --help` and the first picture take; and the size of the core.

Run: make test-core && .venv/bin/python benchmarks/startup.py
The first picture is segmented without PyTorch, where `make test-core` installs the core (`--core PYTHON`).
"""

from __future__ import annotations

import argparse
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

RUNS = 15
ROWS = {
    "python -c pass": ["-c", "pass"],
    "import maskconver": ["-c", "import maskconver"],
    "maskconver --help": ["-m", "maskconver.cli", "--help"],
    "maskconver data check --help": ["-m", "maskconver.cli", "data", "check", "--help"],
    "maskconver predict --help": ["-m", "maskconver.cli", "predict", "--help"],
    "import maskconver.inference.predictor": ["-c", "import maskconver.inference.predictor"],
    "import torch": ["-c", "import torch"],
}
FIRST = """
import sys
import numpy as np
import maskconver as mc
predictor = mc.Predictor("nuclei")
predictor(np.load(sys.argv[1]))
"""
# The stages of the last row, in one process.
STAGES = """
import sys, time
start = time.perf_counter()
import numpy as np
import maskconver as mc
import maskconver.predictor, onnxruntime
imported = time.perf_counter()
predictor = mc.Predictor("nuclei")
opened = time.perf_counter()
predictor(np.load(sys.argv[1]))
first = time.perf_counter()
predictor(np.load(sys.argv[1]))
second = time.perf_counter()
print(imported - start, opened - imported, first - opened, second - first)
"""
SIZES = """
from importlib.metadata import distributions
for one in distributions():
    files = [f.locate() for f in one.files or () if f.suffix != ".pyc"]
    print(one.name, sum(f.stat().st_size for f in files if f.is_file()))
"""
# What the environment has for its own sake and for the tests.
NOT_OURS = {"pip", "setuptools", "wheel", "pytest", "pluggy", "iniconfig", "hypothesis", "sortedcontainers"}


def seconds(arguments: list[str], python: str = sys.executable) -> float:
    """Wall time of one fresh Python process."""
    start = time.perf_counter()
    subprocess.run([python, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def said(python: str, code: str, *arguments: str) -> str:
    """What a Python program prints."""
    return subprocess.run([python, "-c", code, *arguments], check=True, capture_output=True, text=True).stdout


def core(python: str) -> None:
    """The first picture without PyTorch, stage by stage, and what the packages take on disk."""
    from maskconver.data.synth.write import synthesize

    with tempfile.TemporaryDirectory() as folder:
        picture = f"{folder}/cells.npy"
        np.save(picture, synthesize("cells", (256, 320), 7).image)
        runs = [seconds(["-c", FIRST, picture], python) for _ in range(RUNS + 1)][1:]
        stages = [[float(v) for v in said(python, STAGES, picture).split()] for _ in range(RUNS)]
    names = ("imports", "opening the file", "first picture", "second picture")
    parts = (f"{n} {statistics.median(v):.3f}" for n, v in zip(names, zip(*stages)))
    print(f"\nFirst picture of `nuclei` in a fresh process without PyTorch: {statistics.median(runs):.3f} s,")
    print(f"of which in the program: {', '.join(parts)} s (medians of {RUNS}).")
    rows = [line.split() for line in said(python, SIZES).splitlines()]
    sizes = {name: int(size) / 1e6 for name, size in rows if name.lower() not in NOT_OURS}
    largest = sorted(sizes.items(), key=lambda row: -row[1])[:6]
    print(f"\nmaskconver[onnx] installed, without bytecode: {sum(sizes.values()):.0f} MB, of which ", end="")
    print(", ".join(f"{name} {size:.0f}" for name, size in largest))


def main() -> None:
    """Every row once to warm the file cache, then all rows in turn, `RUNS` times; prints medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--core", default=".venv-core/bin/python", help="Python that has maskconver[onnx] only"
    )
    args = parser.parse_args()
    for arguments in ROWS.values():
        seconds(arguments)
    times: dict[str, list[float]] = {name: [] for name in ROWS}
    for _ in range(RUNS):
        for name, arguments in ROWS.items():
            times[name].append(seconds(arguments))
    bare = statistics.median(times["python -c pass"])
    print(f"| fresh process | median of {RUNS}, s | over bare Python, s |\n|---|---|---|")
    for name, values in times.items():
        median = statistics.median(values)
        print(f"| `{name}` | {median:.3f} | {median - bare:.3f} |")
    packages = ", ".join(f"{p} {version(p)}" for p in ("maskconver", "lazy-loader", "jsonargparse", "torch"))
    print(f"\nPython {platform.python_version()} on {platform.machine()} {platform.system()}; {packages}")
    if Path(args.core).exists():
        core(args.core)
    else:
        print(f"no {args.core}: make test-core makes it; the first picture without PyTorch is left out")


if __name__ == "__main__":
    main()
