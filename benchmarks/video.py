"""Video: how much of the time is spent outside the network.

Run: .venv/bin/python benchmarks/video.py [--frames 60] [--model facade]

A generated scene of 480×640 pixels moves through the frames of an MP4 file, which is segmented as
`maskconver predict` does it: decoding, network, post-processing, ids that stay, drawing and encoding. All
times are processor time of the whole process, so what runs in threads beside the network counts as well. The
first frame is left out, with loading the model: the time of a run of one frame is subtracted.
"""

from __future__ import annotations

import json
import tempfile
import time
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np

from harness import arguments, fresh, machine, table
from maskconver import data
from maskconver.io.video import video_writer

STAGES = {
    "network": "network",
    "postprocess": "post-processing",
    "prepare": "prepare",
    "write": "draw, encode",
}


def processor_seconds(model: str, clip: str, out: str, frames: int) -> dict[str, float]:
    """Those of `maskconver predict`, of each stage and in all; in a process of its own."""
    from maskconver.cli.main import main as command
    from maskconver.inference import stream

    stream.perf_counter = time.thread_time  # of the stages
    told = StringIO()
    with redirect_stdout(told):
        code = command(["predict", model, clip, "--out", out, "--max-frames", str(frames), "--json"])
    assert code == 0
    seconds: dict[str, float] = json.loads(told.getvalue().splitlines()[-1])["videos"][0]["seconds"]
    return seconds | {"total": time.process_time()}


def main() -> None:
    """Prints the table of docs/benchmarks.md about video."""
    parser = arguments(__doc__)
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--model", default="facade")
    args = parser.parse_args()
    print(machine("maskconver", "numpy", "av", "onnxruntime", "torch"))
    with tempfile.TemporaryDirectory() as name:
        clip = Path(name) / "clip.mp4"
        image = data.synthesize("scenes", size=(480, 640), seed=3).image
        with video_writer(clip) as video:
            for i in range(args.frames + 1):
                video.write(np.ascontiguousarray(np.roll(image, 2 * i, 1)), i / 25)
        count = args.frames
        first, all_of = (
            fresh(processor_seconds, args.model, str(clip), f"{name}/out", n) for n in (1, count + 1)
        )
    each = {stage: 1e3 * (value - first.get(stage, 0.0)) / count for stage, value in all_of.items()}
    line = table(f"{count} frames of 480×640, {args.model}", "processor time per frame, ms", "share")
    known = 0.0
    for stage, words in STAGES.items():
        known += each[stage]
        line(words, f"{each[stage]:.1f}", f"{each[stage] / each['total']:.1%}")
    rest = each["total"] - known
    line("decode, ids that stay, other threads", f"{rest:.1f}", f"{rest / each['total']:.1%}")
    line(
        "outside the network",
        f"{each['total'] - each['network']:.1f}",
        f"{1 - each['network'] / each['total']:.1%}",
    )


if __name__ == "__main__":
    main()
