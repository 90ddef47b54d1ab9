"""How long `import maskconver`, `maskconver --help` and the first image take; and the size of the core.

Run: make test-core && .venv/bin/python benchmarks/startup.py
     .venv/bin/python benchmarks/startup.py --parts first     (or size, or start)
The first image is segmented without PyTorch, where `make test-core` installs the core (`--core PYTHON`).
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np

from harness import arguments, in_turn, machine, median, medians, table

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
mc.Predictor("nuclei")(np.load(sys.argv[1])).save(sys.argv[1] + ".out")
"""
# The stages of the last row, in one process.
STAGES = """
import sys, time
start = time.perf_counter()
import numpy as np
import maskconver as mc
import maskconver.inference.predictor, onnxruntime
imported = time.perf_counter()
predictor = mc.Predictor("nuclei")
opened = time.perf_counter()
predictor(np.load(sys.argv[1]))
first = time.perf_counter()
predictor(np.load(sys.argv[1]))
second = time.perf_counter()
print(imported - start, opened - imported, first - opened, second - first)
"""
# Every package that maskconver[onnx] needs, and how many bytes it takes without bytecode.
SIZES = """
from importlib.metadata import distribution
from packaging.requirements import Requirement
todo, done = [("maskconver", "onnx")], set()
while todo:
    name, extra = todo.pop()
    if (name.lower(), extra) in done:
        continue
    one, counted = distribution(name), any(name.lower() == other for other, _ in done)
    done.add((name.lower(), extra))
    for needed in map(Requirement, one.requires or ()):
        if not needed.marker or needed.marker.evaluate({"extra": extra}):
            todo += [(needed.name, more) for more in needed.extras or [""]]
    if counted:
        continue
    files = [f.locate() for f in one.files or () if f.suffix != ".pyc"]
    print(one.name, sum(f.stat().st_size for f in files if f.is_file()))
"""


def start(words: list[str], python: str = sys.executable) -> None:
    """One fresh Python process, from its start to its end."""
    subprocess.run([python, *words], check=True, stdout=subprocess.DEVNULL)


def said(python: str, code: str, *arguments: str) -> str:
    """What a Python program prints."""
    return subprocess.run([python, "-c", code, *arguments], check=True, capture_output=True, text=True).stdout


def first_image(python: str, runs: int) -> None:
    """The first image without PyTorch, to its PNG, and stage by stage."""
    from maskconver.data.synth.write import synthesize

    with tempfile.TemporaryDirectory() as folder:
        image = f"{folder}/cells.npy"
        np.save(image, synthesize("cells", (256, 320), 7).image)
        first = median(partial(start, ["-c", FIRST, image], python), runs, clock=time.perf_counter)
        stages = [[float(v) for v in said(python, STAGES, image).split()] for _ in range(runs)]
    names = ("imports", "opening the file", "first image", "second image")
    parts = (f"{n} {statistics.median(v):.3f}" for n, v in zip(names, zip(*stages)))
    print(f"\nFirst image of `nuclei` in a fresh process without PyTorch: {first:.3f} s,")
    print(f"of which in the program: {', '.join(parts)} s (medians of {runs}).")


def sizes_on_disk(python: str) -> None:
    """What the packages take."""
    rows = [line.split() for line in said(python, SIZES).splitlines()]
    sizes = {name: int(size) / 1e6 for name, size in rows}
    largest = sorted(sizes.items(), key=lambda row: -row[1])[:6]
    print(f"\nmaskconver[onnx] installed, without bytecode: {sum(sizes.values()):.0f} MB, of which ", end="")
    print(", ".join(f"{name} {size:.0f}" for name, size in largest))


def main() -> None:
    """Every row once to warm the file cache, then all rows in turn; prints medians."""
    parser = arguments(__doc__)
    parser.add_argument(
        "--core", default=".venv-core/bin/python", help="Python that has maskconver[onnx] only"
    )
    parser.add_argument("--runs", type=int, default=15)
    parts = ("start", "first", "size")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    args = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # or every process would compile every module
    if "start" in args.parts:
        calls = {name: partial(start, words) for name, words in ROWS.items()}
        times = medians(in_turn(calls, args.runs, clock=time.perf_counter))
        row = table("fresh process", f"median of {args.runs}, s", "over bare Python, s")
        for name, value in times.items():
            row(f"`{name}`", f"{value:.3f}", f"{value - times['python -c pass']:.3f}")
    if Path(args.core).exists():
        if "first" in args.parts:
            first_image(args.core, args.runs)
        if "size" in args.parts:
            sizes_on_disk(args.core)
    else:
        print(f"\nno {args.core}: make test-core makes it; the first image without PyTorch is left out")
    print(f"\n{machine('maskconver', 'lazy-loader', 'jsonargparse', 'torch')}")


if __name__ == "__main__":
    main()
