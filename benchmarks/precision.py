"""Size, latency and PQ of exported files in every precision, and of the model they were made from.

Run: .venv/bin/python benchmarks/precision.py nuclei ../shared/data/dsb2018-nuclei --split val

Files are exported once into --files, int8 with the ranges of training pictures; then each is evaluated on the
first --count images, and timed: one canvas through the file, median. --hard also states the PQ with the hard
sigmoid on the masks, the papers' on-device form.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from maskconver import PanopticQuality, Predictor
from maskconver.data.dataset import PanopticDataset
from maskconver.data.open import open_dataset
from maskconver.errors import ExportError
from maskconver.export import litert, onnx
from maskconver.export.network import spread
from maskconver.models.checkpoint import load
from maskconver.models.registry import Model

PRECISIONS = ("none", "fp16", "int8-weights", "int8")
FORMATS = {"onnx": (onnx, onnx.export_onnx, ".onnx"), "litert": (litert, litert.export_litert, ".tflite")}


def draw_once(module: Any) -> None:
    """Makes a format keep the graph it drew: quantising, which comes after it, takes seconds."""
    drawn: dict[str, Any] = {}
    draw = module._graph

    def remembered(model: Model, description: Any) -> Any:
        name = f"{description.name} {description.size}"
        if name not in drawn:
            drawn[name] = draw(model, description)
        copy = type(drawn[name])()
        return drawn[name] if isinstance(copy, bytes) else (copy.CopyFrom(drawn[name]), copy)[1]

    module._graph = remembered


def export_all(
    model: Model, files: Path, ranges: PanopticDataset, count: int
) -> list[tuple[str, str, Path | str]]:
    """(format, precision, file or why there is none) of every file; those that exist are taken as is."""
    pictures = [ranges.image(i) for i in spread(range(len(ranges)), count)]
    rows: list[tuple[str, str, Path | str]] = []
    for form, (module, export, suffix) in FORMATS.items():
        draw_once(module)
        for precision in PRECISIONS:
            path = files / f"{precision}{suffix}"
            calibration = pictures if precision == "int8" else None
            try:
                if not path.exists():
                    result = export(
                        model, path, quantize=precision, calibration=calibration, images=pictures[:8]
                    )
                    print(f"{path}: {result}", file=sys.stderr)
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
    times = []
    for _ in range(runs + 2):
        start = time.perf_counter()
        predictor.runtime(canvas)
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times[2:])


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="a bundled name or a model file")
    parser.add_argument("data", help="folder of a data set with the model's categories")
    parser.add_argument("--split", default="val")
    parser.add_argument("--ranges", default="train", help="split on which the ranges of int8 are measured")
    parser.add_argument("--count", type=int, default=1000, help="images for PQ; 0 leaves PQ out")
    parser.add_argument("--calibration", type=int, default=64, help="pictures for the ranges")
    parser.add_argument("--runs", type=int, default=15, help="for the latency; 0 leaves it out")
    parser.add_argument("--files", default="runs/precision", help="folder for the exported files")
    parser.add_argument("--hard", action="store_true", help="also PQ with the hard sigmoid")
    args = parser.parse_args()
    files = Path(args.files, Path(args.model).parent.name or args.model)
    model = load(args.model)
    data = open_dataset(args.data, args.split)
    rows: list[tuple[str, str, Any]] = [("PyTorch", "none", model)]
    rows += export_all(model, files, open_dataset(args.data, args.ranges), args.calibration)
    names = ["PQ all", "PQ things"]
    print(
        "| runtime | precision | MB | ms a canvas |",
        " | ".join(names),
        "|\n" + "|---" * (4 + len(names)) + "|",
    )
    for form, precision, file in rows:
        if isinstance(file, str):
            print(f"| {form} | {precision} | refused: {file} |", flush=True)
            continue
        size = f"{file.stat().st_size / 1e6:.2f}" if isinstance(file, Path) else ""
        cells = [f"{milliseconds(Predictor(file), args.runs):.1f}" if args.runs else ""]
        if args.count:
            cells += [f"{pq:.2f}" for pq in quality(Predictor(file), data, args.count)]
        print(f"| {form} | {precision} | {size} |", " | ".join(cells), "|", flush=True)
    if args.hard:
        both = quality(Predictor(model, hard_sigmoid=True), data, args.count)
        print("\nPQ with the hard sigmoid, PyTorch:", " and ".join(f"{pq:.2f}" for pq in both))
    packages = "torch", "onnxruntime", "litert-torch", "ai-edge-litert", "ai-edge-quantizer", "numpy"
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    print(f"\n`{' '.join(sys.argv[1:])}`: {min(args.count, len(data))} images, canvas {model.input.size};")
    print(f"OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS')}, {platform.machine()} {platform.system()},")
    print(f"Python {platform.python_version()}; {versions}")


if __name__ == "__main__":
    main()
