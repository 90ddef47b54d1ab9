"""Two processes with half a folder each beside one process with all of it.

Run: .venv/bin/python benchmarks/shards.py [--images 200] [--model nuclei]

Generated cells of 320×256 pixels as PNG files are segmented by `maskconver predict`, with one thread each.
The machine needs two cores that nothing else uses. Loading the package and the model counts on both sides.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from harness import arguments, machine, table
from maskconver import data


def seconds(model: str, images: Path, out: Path, parts: int) -> float:
    """Wall time until so many processes have segmented all images between them."""
    command = [
        sys.executable,
        "-m",
        "maskconver.cli",
        "predict",
        model,
        str(images),
        "--out",
        str(out),
        "--json",
    ]
    alone = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1") | {"CUDA_VISIBLE_DEVICES": ""}
    own = [["--shard", f"{i + 1}/{parts}"] if parts > 1 else [] for i in range(parts)]
    begun = time.perf_counter()
    running = [
        subprocess.Popen([*command, *words], env=os.environ | alone, stdout=subprocess.DEVNULL)
        for words in own
    ]
    codes = [process.wait() for process in running]
    assert not any(codes), f"exit codes {codes}"
    return time.perf_counter() - begun


def main() -> None:
    """Prints the table of docs/benchmarks.md about several processes."""
    parser = arguments(__doc__)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--model", default="nuclei")
    args = parser.parse_args()
    print(machine("maskconver", where="one thread a process"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "images")
        folder.mkdir()
        for i in range(args.images):
            Image.fromarray(data.synthesize("cells", size=(256, 320), seed=i).image).save(
                folder / f"{i:04d}.png"
            )
        seconds(args.model, folder, Path(name, "warm"), 1)
        one, two = (seconds(args.model, folder, Path(name, f"out{n}"), n) for n in (1, 2))
    row = table("processes", "s", "images/s", "speed-up")
    for count, value in ((1, one), (2, two)):
        row(count, f"{value:.1f}", f"{args.images / value:.2f}", f"{one / value:.2f}")


if __name__ == "__main__":
    main()
