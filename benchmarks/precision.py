"""Size, latency and PQ of exported files in every precision, and of the model they were made from.

Run: .venv/bin/python benchmarks/precision.py nuclei my_data/dsb2018-nuclei --split val

Files are exported once into --files, int8 with the ranges of training images; then each is evaluated on the
first --count images, and timed: one canvas through the file, median. --hard also states the PQ with the hard
sigmoid on the masks, the papers' on-device form.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from harness import SHARED, arguments, machine, median, table
from maskconver import PanopticQuality, Predictor, export_model
from maskconver.data.dataset import PanopticDataset
from maskconver.data.open import open_dataset
from maskconver.errors import ExportError
from maskconver.export import driver
from maskconver.models.checkpoint import load

PRECISIONS = ("none", "fp16", "int8-weights", "int8")
FORMATS = ("onnx", "litert")


def export_all(
    model: Any, files: Path, ranges: PanopticDataset, count: int
) -> list[tuple[str, str, Path | str]]:
    """(format, precision, file or why there is none) of every file; those that exist are taken as is."""
    images = [ranges.image(i) for i in driver.spread(range(len(ranges)), count)]
    rows: list[tuple[str, str, Path | str]] = []
    for form in FORMATS:
        for precision in PRECISIONS:
            path = files / f"{precision}{driver.FORMATS[form].suffix}"
            calibrate = images if precision == "int8" else None
            try:
                if not path.exists():
                    options = {"quantize": precision, "calibrate": calibrate, "images": images[:8]}
                    print(f"{path}: {export_model(model, path, form, **options)}", file=sys.stderr)
                rows.append((form, precision, path))
            except ExportError as error:
                rows.append((form, precision, str(error)))
    return rows


def quality(predictor: Predictor, data: PanopticDataset, count: int) -> tuple[float, float]:
    """PQ of everything and of things, in percent, on the first images."""
    metric = PanopticQuality(data.categories)
    stream = predictor.stream(range(min(count, len(data))), read=data.image, keep_images=False)
    for index, answer in stream:
        if isinstance(answer, Exception):
            raise answer
        metric.update(answer.ids, answer.segments, data.ids(index), data.segments(index))
    result = metric.compute()
    return 100 * result.all.pq, 100 * result.things.pq


def milliseconds(predictor: Predictor, runs: int) -> float:
    """Median time of one canvas through the network."""
    height, width = predictor.runtime.input.size
    canvas = np.random.default_rng(0).normal(size=(1, 3, height, width)).astype(np.float32)
    return 1000 * median(lambda: predictor.runtime(canvas), runs, warm=2, clock=time.perf_counter)


def main() -> None:
    """Prints the table."""
    parser = arguments(__doc__)
    parser.add_argument("model", nargs="?", default="nuclei", help="a bundled name or a model file")
    nuclei = SHARED / "data" / "dsb2018-nuclei"
    parser.add_argument("data", nargs="?", default=str(nuclei), help="a data set with the model's categories")
    parser.add_argument("--split", default="val")
    parser.add_argument("--ranges", default="train", help="split on which the ranges of int8 are measured")
    parser.add_argument("--count", type=int, default=1000, help="images for PQ; 0 leaves PQ out")
    parser.add_argument("--calibration", type=int, default=64, help="images for the ranges")
    parser.add_argument("--runs", type=int, default=15, help="for the latency; 0 leaves it out")
    parser.add_argument("--files", default="runs/precision", help="folder for the exported files")
    parser.add_argument("--hard", action="store_true", help="also PQ with the hard sigmoid")
    args = parser.parse_args()
    files = Path(args.files, Path(args.model).parent.name or args.model)
    model = load(args.model)
    data = open_dataset(args.data, args.split)
    rows: list[tuple[str, str, Any]] = [("PyTorch", "none", model)]
    rows += export_all(model, files, open_dataset(args.data, args.ranges), args.calibration)
    row = table("runtime", "precision", "MB", "ms per input", "PQ all", "PQ things")
    for form, precision, file in rows:
        if isinstance(file, str):
            row(form, precision, f"refused: {file}")
            continue
        size = f"{file.stat().st_size / 1e6:.2f}" if isinstance(file, Path) else ""
        cells = [f"{milliseconds(Predictor(file), args.runs):.1f}" if args.runs else ""]
        if args.count:
            cells += [f"{pq:.2f}" for pq in quality(Predictor(file), data, args.count)]
        row(form, precision, size, *cells)
    if args.hard:
        both = quality(Predictor(model, hard_sigmoid=True), data, args.count)
        print("\nPQ with the hard sigmoid, PyTorch:", " and ".join(f"{pq:.2f}" for pq in both))
    print(f"\n{min(args.count, len(data))} images, network input {model.input.size};")
    packages = "torch", "onnxruntime", "litert-torch", "ai-edge-litert", "ai-edge-quantizer", "numpy"
    print(machine(*packages, where=f"OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS')}"))


if __name__ == "__main__":
    main()
