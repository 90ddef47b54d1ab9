"""Folder prediction: one image after the other against the pipeline, and where the time goes.

Run: .venv/bin/python benchmarks/predict.py

Every row segments the same folder of JPEGs and writes panoptic files. With --elsewhere the network only waits
that many milliseconds, as it does on another device: what is then left is what the processor has to do.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from harness import Repeating, arguments, in_turn, machine, medians, table
from maskconver import Predictor, Segmentation
from maskconver.core.config import InputConfig
from maskconver.core.panoptic_png import read_panoptic_png
from maskconver.core.preprocess import fitted_size, normalize, prepare, resize_bilinear, stretch
from maskconver.core.segments import lookup
from maskconver.data.synth.write import synthesize
from maskconver.inference.stream import behind, timed
from maskconver.io.images import read_image
from maskconver.io.results import panoptic_writer
from maskconver.io.sources import list_images

STAGES = ("network", "merge", "decode", "prepare", "write", "waiting")


def make_images(folder: Path, size: tuple[int, int], count: int, source: str | None) -> list[Path]:
    """JPEGs of (height, width), enlarged from generated cells or from the images of a folder."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    files = list_images(source) if source else []
    paths = []
    for number in range(count):
        small = (
            read_image(files[number % len(files)]) if files else synthesize("cells", (480, 640), number).image
        )
        large = np.asarray(Image.fromarray(small).resize(size[::-1], Image.Resampling.BICUBIC)).astype(
            np.int16
        )
        large += rng.integers(-4, 5, (*size, 1), np.int16)  # as a sensor's noise; an enlarged image has none
        paths.append(folder / f"{number:03d}.jpg")
        Image.fromarray(large.clip(0, 255).astype(np.uint8)).save(paths[-1], quality=90)
    return paths


def predict(predictor: Predictor, paths: list[Path], out: Path, pipeline: bool) -> dict[str, float]:
    """Segments and writes all; the seconds of each stage, in `total`, and of `processor` time."""
    seconds: dict[str, float] = {}
    start, processor = time.perf_counter(), time.process_time()
    with panoptic_writer(out, predictor.categories, {}) as files:

        def write(result: Segmentation, stem: str) -> None:
            with timed(seconds, "write"):
                files(result, stem)

        ahead, threads = (2, 2) if pipeline else (0, 1)
        stream = predictor.stream(paths, keep_images=False, ahead=ahead, threads=threads, seconds=seconds)
        with behind(write) if pipeline else nullcontext(write) as write_one:
            for path, answer in stream:
                if not isinstance(answer, Segmentation):
                    raise answer
                with timed(seconds, "waiting") if pipeline else nullcontext():
                    write_one(answer, path.stem)
    seconds["total"], seconds["processor"] = time.perf_counter() - start, time.process_time() - processor
    if not pipeline:
        del seconds["waiting"]  # it waits for what is decoded and prepared only now
    return seconds


def category_maps(out: Path) -> list[NDArray[np.int32]]:
    """Category ids of every pixel, 0 = void, of all images of a result."""
    maps = []
    for row in json.loads((out / "panoptic.json").read_text(encoding="utf-8"))["annotations"]:
        ids = read_panoptic_png(out / "panoptic" / row["file_name"])
        segments = row["segments_info"]
        maps.append(lookup(ids, [s["id"] for s in segments], [s["category_id"] for s in segments], 0))
    return maps


def plain_prepare(image: NDArray[np.uint8], config: InputConfig) -> NDArray[np.float32]:
    """`prepare` step by step over the whole image: the definition."""
    scaled = fitted_size((image.shape[0], image.shape[1]), config.size)
    stretching = config.stretch == "percentile"
    values = stretch(image, config.percentiles) if stretching else image
    canvas = np.zeros((3, *config.size), np.float32)
    resized = normalize(resize_bilinear(values, scaled), config, unit=stretching)
    canvas[:, : scaled[0], : scaled[1]] = resized.transpose(2, 0, 1)
    return canvas


def plain_read(path: Path) -> NDArray[np.uint8]:
    """The JPEG through `np.asarray`, as a writable array."""
    with Image.open(path) as image:
        return np.array(image.convert("RGB"))


def print_preprocessing(row: Callable[..., None], path: Path, size: tuple[int, int]) -> None:
    """Rows of plain and own reading and preparing of one image, processor ms of this thread."""
    name, image = f"{size[1]}×{size[0]}", read_image(path)

    def compare(what: str, plain: Callable[[], Any], own: Callable[[], Any]) -> None:
        times = medians(in_turn({"plain": plain, "own": own}, 9, clock=time.thread_time))
        a, b = times["plain"], times["own"]
        row(name, what, f"{1e3 * a:.1f}", f"{1e3 * b:.1f}", f"{a / b:.1f}")

    compare("read", partial(plain_read, path), partial(read_image, path))
    for side in (256, 640):
        for stretching in ("none", "percentile"):
            config = InputConfig(size=(side, side), stretch=stretching)  # type: ignore[arg-type]
            difference = abs(prepare(image, config)[0] - plain_prepare(image, config)).max()
            assert difference < 1e-5, difference
            what = f"prepare for {side} px{', stretched' if stretching != 'none' else ''}"
            compare(what, partial(plain_prepare, image, config), partial(prepare, image, config))


def print_folder(
    row: Callable[..., None], args: argparse.Namespace, folder: Path, paths: list[Path], size: tuple[int, int]
) -> str:
    """Rows of the three ways through one folder; returns a line about the reduced answers."""
    ways = (
        ("one after the other", False, False),
        ("pipeline", True, False),
        ("pipeline, reduced", True, True),
    )
    first = 0.0
    for name, pipeline, draft in ways:
        predictor = Predictor(args.model, device=args.device, draft_jpeg=draft)
        if args.elsewhere is not None:
            predictor.runtime = Repeating(predictor.runtime, args.elsewhere / 1000)
        for _ in predictor.stream(paths[:1]):  # warms up
            pass
        seconds = predict(predictor, paths, folder / name, pipeline)
        rate = len(paths) / seconds["total"]
        first = first or rate
        shares = [f"{100 * seconds[s] / seconds['total']:.0f} %" if s in seconds else "" for s in STAGES]
        processor = seconds["processor"] / len(paths)
        cells = [
            f"{size[1]}×{size[0]}",
            name,
            f"{rate:.2f}",
            f"{rate / first:.2f}",
            f"{processor:.3f}",
            *shares,
        ]
        row(*cells)
    pairs = zip(category_maps(folder / ways[1][0]), category_maps(folder / ways[2][0]))
    differing = [float((a != b).mean()) for a, b in pairs]
    return f"{size[1]}×{size[0]}: median {np.median(differing):.2%}, most {max(differing):.2%}"


def main() -> None:
    """Prints the tables."""
    parser = arguments(__doc__)
    parser.add_argument("--model", default="nuclei", help="a bundled name, a model file or a run's folder")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--images", type=int, nargs=2, default=[16, 4], help="of the small and the large size"
    )
    parser.add_argument("--data", help="folder of images to enlarge; generated cells if left out")
    parser.add_argument("--elsewhere", type=float, help="milliseconds of waiting in place of the network")
    args = parser.parse_args()
    sizes = ((480, 640), (3000, 4000))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = {s: make_images(folder / str(s[0]), s, n, args.data) for s, n in zip(sizes, args.images)}
        row = table("images", "way", "images/s", "ratio", "processor s per image", *STAGES)
        notes = [print_folder(row, args, folder / str(size[0]), paths, size) for size, paths in made.items()]
        print("\nPixels whose category differs where JPEGs are read reduced:", "; ".join(notes))
        print()
        row = table("image", "step", "plain, ms", "ours, ms", "ratio")
        for size, paths in made.items():
            print_preprocessing(row, paths[0], size)
    print(f"\n{machine('maskconver', 'torch', 'numpy', 'pillow', where=args.model)}")


if __name__ == "__main__":
    main()
