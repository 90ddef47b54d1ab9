"""Panoptic quality: our time a pair beside torchmetrics, vernier (decoded arrays) and hotcoco (PNG files).

Run: .venv/bin/python benchmarks/pq.py [--data FOLDER]    FOLDER holds panoptic_val.json and panoptic/val
     .venv/bin/python benchmarks/pq.py --parts files          (or arrays, or decoders)

Without --data the ground truth is generated: 480×640, 11 segments of smooth outline, random 24-bit ids.
Predictions are the ground truth shifted by a few pixels under new ids, written by Pillow. Competitors are
measured in turn, in the same run; the median counts. Where other programs share the machine, processor time
is the fairer figure. Needs torchmetrics and hotcoco, and kornia-rs for the faster decoder.
vernier, where it is installed, evaluates maps that it has taken over before.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import statistics
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from harness import arguments, fresh, in_turn, machine, median, medians, table
from maskconver.core.categories import Categories
from maskconver.core.malloc import keep_freed_memory
from maskconver.io.panoptic_json import PanopticFile, read_panoptic_json, read_panoptic_png
from maskconver.metrics.files import panoptic_quality_files
from maskconver.metrics.panoptic_quality import PanopticQuality

Pair = tuple[NDArray[np.int32], Any, NDArray[np.int32], Any]


def hotcoco(gt: str, pred: str) -> tuple[float, float, float]:
    """Wall and processor seconds, and PQ."""
    from hotcoco.panoptic import pq_compute

    wall, cpu = time.perf_counter(), time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        result = pq_compute(gt, pred)
    return time.perf_counter() - wall, time.process_time() - cpu, result["All"]["pq"]


def cpu_seconds() -> float:
    """Processor time of this process and of its ended children."""
    return sum(os.times()[:4])


def save(path: Path, ids: NDArray[np.int64]) -> None:
    """An RGB PNG as Pillow writes it by default."""
    Image.fromarray(np.stack([ids >> shift & 255 for shift in (0, 8, 16)], -1).astype(np.uint8)).save(path)


def generate(folder: Path, images: int, rng: np.random.Generator) -> Path:
    """Ground truth of 480×640 images: one background and ten ellipses each."""
    categories = Categories.coco()
    y, x = np.mgrid[:480, :640]
    (folder / "gt").mkdir()
    rows = []
    for i in range(images):
        segment_ids = rng.choice((1 << 24) - 1, 11, replace=False) + 1
        ids = np.full((480, 640), segment_ids[0])
        for segment in segment_ids[1:]:
            cy, cx, ry, rx = rng.uniform((0, 0, 30, 30), (480, 640, 120, 160))
            wobble = 0.15 * np.sin(np.arctan2(y - cy, x - cx) * rng.integers(2, 7) + rng.uniform(0, 6))
            ids[((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1 + wobble] = segment
        ids[:4] = 0
        save(folder / "gt" / f"{i}.png", ids)
        labels = rng.integers(0, len(categories), 11)
        segments = [
            {
                "id": int(s),
                "category_id": categories[int(label)].id,
                "area": int((ids == s).sum()),
                "iscrowd": 0,
            }
            for s, label in zip(segment_ids, labels)
        ]
        rows.append(
            {"image_id": i, "file_name": f"{i}.png", "segments_info": [s for s in segments if s["area"]]}
        )
    listed = [{"id": i, "file_name": f"{i}.jpg", "width": 640, "height": 480} for i in range(images)]
    path = folder / "gt.json"
    path.write_text(json.dumps({"images": listed, "annotations": rows, "categories": categories.to_json()}))
    return path


def predict(folder: Path, gt: PanopticFile, gt_pngs: Path) -> tuple[list[Pair], dict[str, Any]]:
    """Shift every map, give it new ids, write it; returns the pairs as arrays and the prediction's JSON."""
    (folder / "pred").mkdir()
    pairs: list[Pair] = []
    rows = []
    for i, name in enumerate(gt.png_names):
        gt_ids, table = read_panoptic_png(gt_pngs / name), gt.table(i)
        shifted = np.roll(gt_ids, (3, 5), (0, 1)).astype(np.int64) * 7919 % (1 << 24)
        new = table.ids.astype(np.int64) * 7919 % (1 << 24)
        kept = np.isin(new, shifted)
        save(folder / "pred" / f"{i}.png", shifted)
        segments = [
            {"id": int(s), "category_id": gt.categories[int(label)].id}
            for s, label in zip(new[kept], table.labels[kept])
        ]
        rows.append({"image_id": gt.image_ids[i], "file_name": f"{i}.png", "segments_info": segments})
        pairs.append((shifted.astype(np.int32), (new[kept], table.labels[kept]), gt_ids, table))
    return pairs, {"annotations": rows, "categories": gt.categories.to_json()}


def repeat(data: dict[str, Any], times: int) -> dict[str, Any]:
    """The same images again under other image ids, so that a run takes long enough to be timed."""
    answer = dict(data)
    for key, name in (("images", "id"), ("annotations", "image_id")):
        if key in data:
            answer[key] = [row | {name: row[name] * times + k} for k in range(times) for row in data[key]]
    return answer


def arrays(pairs: list[Pair], categories: Categories) -> None:
    """Prints ours beside torchmetrics."""

    def own() -> None:
        metric = PanopticQuality(categories)
        for pair in pairs:
            metric.update(*pair)

    calls = {"own": own} | vernier(pairs, categories)
    often = medians(in_turn(calls, 15))
    a = often["own"] / len(pairs)
    row = table("decoded arrays", "processor ms per pair", "ratio")
    row("maskconver", f"{1e3 * a:.2f}", 1)
    for name in calls.keys() - {"own"}:
        row(name, f"{1e3 * often[name] / len(pairs):.2f}", f"{often[name] / often['own']:.2f}")
    if find_spec("torchmetrics") is None:
        print("torchmetrics is not installed; left out\n")
        return
    import maskconver.models.backbones  # noqa: F401, I001  (before torchmetrics, which imports torchvision)
    import torch
    from torchmetrics.detection import PanopticQuality as TorchMetrics

    def decoded(ids: NDArray[np.int32], rows: Any) -> torch.Tensor:
        segment_ids, labels = (rows.ids, rows.labels) if hasattr(rows, "ids") else rows
        lookup = np.zeros(1 << 24, np.int64)
        lookup[segment_ids] = categories.ids[labels]
        return torch.from_numpy(np.stack([lookup[ids], ids], -1)[None])

    few = [(decoded(p, rows), decoded(g, table)) for p, rows, g, table in pairs[:3]]
    torch.set_num_threads(1)  # processor time is compared
    things = {int(i) for i in categories.ids[categories.is_thing]}
    stuff = {int(i) for i in categories.ids[~categories.is_thing]}

    def other() -> None:
        metric = TorchMetrics(things, stuff, allow_unknown_preds_category=True)
        for pred, gt in few:
            metric.update(pred, gt)

    b = median(other, 3, warm=0) / len(few)
    row("torchmetrics (3 pairs)", f"{1e3 * b:.0f}", f"{b / a:.0f}")
    print()


def vernier(pairs: list[Pair], categories: Categories) -> dict[str, Any]:
    """A call that evaluates all pairs with vernier, on one thread; none where it is not installed."""
    try:
        from vernier.panoptic import Dataset, Predictions, evaluate_panoptic
    except ModuleNotFoundError:
        print("vernier is not installed; left out\n")
        return {}

    def columns(rows: Any) -> tuple[Any, ...]:
        return (
            (rows.ids, rows.labels, rows.crowd, rows.areas) if hasattr(rows, "ids") else (*rows, None, None)
        )

    def described(rows: Any) -> list[dict[str, int]]:
        ids, labels, crowd, areas = columns(rows)
        nothing = np.zeros(len(ids))
        values = zip(
            ids,
            categories.ids[labels],
            nothing if crowd is None else crowd,
            nothing if areas is None else areas,
        )
        return [dict(zip(("id", "category_id", "iscrowd", "area"), map(int, row))) for row in values]

    def given(maps: int) -> tuple[dict[int, NDArray[np.uint32]], bytes]:
        arrays = {i: np.ascontiguousarray(pair[maps], np.uint32) for i, pair in enumerate(pairs)}
        return arrays, json.dumps({str(i): described(p[maps + 1]) for i, p in enumerate(pairs)}).encode()

    gt = Dataset.from_arrays(*given(2), json.dumps(categories.to_json()).encode())
    pred = Predictions.from_arrays(*given(0))
    return {"vernier": lambda: evaluate_panoptic(gt, pred, "corrected", True, num_threads=1)}


def files(gt: Path, pred: Path, images: int, rounds: int) -> None:
    """Prints ours beside hotcoco, JSON reading and starting of worker processes included."""
    keep_freed_memory()  # as `maskconver pq` does
    rows: dict[str, list[tuple[float, float, float]]] = {}
    values = set()
    for _ in range(rounds):
        for workers in (1, 2):
            wall, cpu = time.perf_counter(), cpu_seconds()
            result = panoptic_quality_files(gt, pred, processes=workers)
            own = time.perf_counter() - wall, cpu_seconds() - cpu, result.decoding
            rows.setdefault(f"maskconver, {workers} process(es)", []).append(own)
            environment = {"RAYON_NUM_THREADS": str(workers)}
            wall, cpu, quality = fresh(hotcoco, str(gt), str(pred), environment=environment)
            rows.setdefault(f"hotcoco, {workers} thread(s)", []).append((wall, cpu, 0.0))
            values |= {round(result.quality.all.pq, 9), round(quality, 9)}
    middle = {name: [statistics.median(v) for v in zip(*taken)] for name, taken in rows.items()}
    base = middle["hotcoco, 2 thread(s)"]
    row = table(
        f"{images} pairs from PNG files", "ms per pair", "ratio", "processor ms per pair", "ratio", "decoding"
    )
    for name, (wall, cpu, decoding) in middle.items():
        times = [
            cell for v, b in zip((wall, cpu), base) for cell in (f"{1e3 * v / images:.2f}", f"{v / b:.2f}")
        ]
        row(name, *times, f"{decoding:.0%}" if decoding else "")
    print(f"\nRatios are to hotcoco with 2 threads. PQ of all of them: {', '.join(map(str, values))}")


def decoders(folder: Path, rounds: int) -> None:
    """Prints our decoder beside Pillow."""
    contents = [path.read_bytes() for path in sorted(folder.glob("*.png"))]

    def pillow(data: bytes) -> NDArray[np.uint32]:
        colours = np.asarray(Image.open(io.BytesIO(data)), np.uint32)
        return colours[..., 0] | colours[..., 1] << 8 | colours[..., 2] << 16

    calls = {
        "read_panoptic_png": lambda: [read_panoptic_png(data) for data in contents],
        "Pillow": lambda: [pillow(data) for data in contents],
    }
    times = medians(in_turn(calls, rounds, warm=0))
    print()
    row = table("decoding a ground truth PNG to ids", "processor ms", "to Pillow")
    for name, value in times.items():
        row(name, f"{1e3 * value / len(contents):.2f}", f"{value / times['Pillow']:.2f}")


def main() -> None:
    """Prints the tables of docs/benchmarks.md about PQ."""
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, help="a data set with panoptic_val.json and panoptic/val")
    parser.add_argument("--pairs", type=int, default=1000, help="pairs of a run from files")
    parser.add_argument("--rounds", type=int, default=5)
    parts = ("files", "decoders", "arrays")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts, help="tables to print")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = (
            args.data / "panoptic_val.json" if args.data else generate(folder, 40, np.random.default_rng(0))
        )
        pngs = args.data / "panoptic" / "val" if args.data else folder / "gt"
        gt = read_panoptic_json(source)
        pairs, prediction = predict(folder, gt, pngs)
        segments = len(gt.segments.ids) / len(gt)
        size = statistics.mean(pair[0].size for pair in pairs)
        print(f"{len(pairs)} maps, {segments:.1f} segments and {size:.0f} pixels on average\n")
        times = max(1, round(args.pairs / len(gt)))
        (folder / "pred.json").write_text(json.dumps(repeat(prediction, times)))
        (folder / "gt_many.json").write_text(json.dumps(repeat(json.loads(source.read_text()), times)))
        (folder / "gt_many").symlink_to(pngs.resolve(), target_is_directory=True)
        if "files" in args.parts:
            files(folder / "gt_many.json", folder / "pred.json", times * len(gt), args.rounds)
        if "decoders" in args.parts:
            decoders(pngs, args.rounds)
        print()
        if "arrays" in args.parts:
            arrays(pairs, gt.categories)
    print(machine("maskconver", "numpy", "pillow", "kornia-rs", "hotcoco", "vernier", "torchmetrics"))


if __name__ == "__main__":
    main()
