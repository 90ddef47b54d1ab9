"""Tiled inference: what it takes beyond the network.

Run: .venv/bin/python benchmarks/tiles.py [--side 8192]

A generated image of cells on a grid, which lies alike in every tile, is segmented in tiles of 1024 pixels.
The network runs on the first tile only and then repeats its answer; its own time is measured on a few inputs
of that size. All times are processor time of one thread.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from harness import Repeating, arguments, machine, table
from maskconver import Predictor
from maskconver.inference import stream

PERIOD, RADIUS, TILE = 64, 15, 1024  # pixels
STAGES = ("decode", "prepare", "postprocess", "join")


def cells(side: int) -> NDArray[np.uint8]:
    """Bright discs on a dark, noisy ground, the same every 64 pixels."""
    rng = np.random.default_rng(0)
    ys, xs = np.mgrid[:PERIOD, :PERIOD] - PERIOD / 2 + 0.5
    disc = 170 / (1 + np.exp(np.hypot(ys, xs) - RADIUS)) + 20 + rng.normal(0, 4, ys.shape)
    once = np.repeat(disc.clip(0, 255).astype(np.uint8)[..., None], 3, 2)
    count = -(-side // PERIOD)
    return np.tile(once, (count, count, 1))[:side, :side]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--side", type=int, default=8192, help="of the image in pixels")
    parser.add_argument("--model", default="nuclei", help="a model of cells")
    args = parser.parse_args()
    print(machine())
    stream.perf_counter = time.thread_time  # of the stages, whatever else the machine does
    network = Predictor(args.model).runtime
    canvas = np.zeros((1, network.input.channels, TILE, TILE), np.float32)
    network(canvas)
    begun = time.process_time()
    for _ in range(3):
        network(canvas)
    each = (time.process_time() - begun) / 3
    image, runtime, seconds = cells(args.side), Repeating(network), dict[str, float]()
    runtime.input = replace(runtime.input, mode="native")
    predictor = Predictor(runtime, tile=TILE)
    (_, result), *_ = predictor.stream([image], keep_images=False, seconds=seconds)
    tiles = runtime.calls
    print(f"{args.side}² pixels, {tiles} tiles of {TILE}², {len(result)} segments\n")
    row = table("stage", "ms per tile", "% of the network")
    row(f"network ({args.model})", f"{each * 1000:.0f}", 100)
    for name in STAGES:
        row(name, f"{seconds[name] / tiles * 1000:.1f}", f"{100 * seconds[name] / tiles / each:.1f}")


if __name__ == "__main__":
    main()
