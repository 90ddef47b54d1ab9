"""Video: how much of the time is spent outside the network.

Run: .venv/bin/python benchmarks/video.py [--frames 60] [--model facade]

A generated scene of 480×640 pixels moves through the frames of an MP4 file, which is segmented as
`maskconver predict` does it: decoding, network, post-processing, ids that stay, drawing and encoding. The
network has one thread. Decoding, drawing and encoding run in threads beside it, so the share of wall time
outside the network is what users wait for where the machine has a second core.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from harness import arguments, machine, table
from maskconver import data
from maskconver.io.video import video_writer


def main() -> None:
    """Prints the table of docs/benchmarks.md about video."""
    parser = arguments(__doc__)
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--model", default="facade")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        clip = Path(name) / "clip.mp4"
        image = data.synthesize("scenes", size=(480, 640), seed=3).image
        with video_writer(clip) as video:
            for i in range(args.frames):
                video.write(np.ascontiguousarray(np.roll(image, 2 * i, 1)), i / 25)
        command = [sys.executable, "-m", "maskconver.cli", "predict", args.model, str(clip)]
        done = subprocess.run([*command, "--out", f"{name}/out", "--json"], capture_output=True, text=True)
        done.check_returncode()
    row = json.loads(done.stdout)["videos"][0]
    seconds, count = row["seconds"], row["frames"]
    line = table(f"{count} frames of 480×640, {args.model}", "ms per frame", "share of wall time")
    for stage in ("network", "postprocess", "waiting", "decode", "prepare", "write", "total"):
        value = seconds.get(stage, 0.0)
        line(stage, f"{1e3 * value / count:.1f}", f"{value / seconds['total']:.0%}")
    line("outside the network", "", f"{1 - seconds['network'] / seconds['total']:.0%}")
    print(machine("maskconver", "numpy", "av", "onnxruntime", "torch"))


if __name__ == "__main__":
    main()
