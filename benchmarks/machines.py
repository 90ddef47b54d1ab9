"""Many images through the actors of `predict --engine ray`: rate, memory, and the work of the coordinator.

The network is a stub that finds what is bright, so that everything else is measured: reading JPEG files,
resizing, post-processing, encoding and writing Parquet, and Ray. One file of a hundred is damaged. The second
table has actors that do nothing: what the process that starts the run could hand out at most.

    python benchmarks/machines.py --images 20000 --actors 2 --paths 100000
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from PIL import Image

from harness import machine
from maskconver.core.categories import Categories, Category
from maskconver.core.config import InputConfig, PostprocessConfig
from maskconver.core.proposals import Proposals
from maskconver.inference import ray_engine
from maskconver.inference.ray_engine import Plan, find_images, segment_on_ray

SIDE = 256


class Stub:
    """A network of no cost: 8 vertical bands of what is bright, and the rest."""

    def __init__(self) -> None:
        self.input = InputConfig("fit", (SIDE, SIDE), multiple=32)
        self.postprocess = PostprocessConfig()
        self.categories = Categories(
            [Category(1, "cell", True, (9, 9, 9)), Category(2, "ground", False, (0, 0, 0))]
        )

    def __call__(self, images: np.ndarray) -> Proposals:
        b, small = len(images), images[:, 0, ::4, ::4]
        n = small.shape[2]
        bands = (np.arange(n) * 8 // n == np.arange(8)[:, None])[None, :, None, :]
        logits = np.where(bands, 8 * small[:, None], -20.0)
        every = np.concatenate([logits, -8 * small[:, None]], 1).astype(np.float32)
        return Proposals(
            np.tile(np.linspace(0.9, 0.8, 9, dtype=np.float32), (b, 1)),
            np.tile(np.int64([0] * 8 + [1]), (b, 1)),
            every,
        )


class Idle:
    """An actor that hands its batch back at once."""

    def __init__(self, **_: object) -> None: ...

    def __call__(self, batches: dict) -> dict:
        about = json.dumps({"failed": [], "segments": {}, "warned": []})
        return {"batch": list(batches["batch"]), "about": [about for _ in batches["batch"]]}


def make_images(folder: Path, count: int) -> None:
    """50 generated JPEG files and a damaged one, under as many names as are wanted (hard links)."""
    random, sources = np.random.default_rng(0), []
    for k in range(50):
        image = random.normal(60, 10, (SIDE, SIDE, 3))
        y, x = np.mgrid[:SIDE, :SIDE]
        for cy, cx in random.integers(0, SIDE, (12, 2)):
            image[(y - cy) ** 2 + (x - cx) ** 2 < 300] += 130
        path = folder / f"source{k}.jpg"
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(path, quality=90)
        sources.append(path)
    bad = folder / "bad.jpg"
    bad.write_bytes(sources[0].read_bytes()[:2000])
    for k in range(count):
        place = folder / "in" / f"{k // 1000:04}"
        if k % 1000 == 0:
            place.mkdir(parents=True)
        os.link(bad if k % 100 == 50 else sources[k % 50], place / f"{k:07}.jpg")


def used(*names: str) -> list[tuple[int, float]]:
    """Memory in MB and seconds of processor time of the processes here whose program is called so."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            program = (process / "cmdline").read_bytes().partition(b"\0")[0].decode(errors="replace")
            if program.startswith(names) or program.rpartition("/")[2] in names:
                seconds = (process / "stat").read_text().rpartition(")")[2].split()[11:13]
                memory = int((process / "statm").read_text().split()[1]) * 4096 >> 20
                found.append((memory, sum(map(int, seconds)) / os.sysconf("SC_CLK_TCK")))
        except OSError:
            continue
    return found


def own_seconds() -> float:
    """Processor time of this process and of Ray's own programs, which the actors of all machines ask."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    return own.ru_utime + own.ru_stime + sum(seconds for _, seconds in used("gcs_server", "raylet"))


class Watch:
    """Notes time, own processor time and memory at each tenth of the images."""

    def __init__(self, total: int) -> None:
        self.total, self.done = total, 0
        self.rows: list[tuple[int, float, float, int, int, float]] = []
        self.lock = threading.Lock()

    def __call__(self, count: int) -> None:
        before, self.done = self.done, self.done + count
        if not self.rows or self.done * 10 // self.total > before * 10 // self.total:
            own = int(Path("/proc/self/statm").read_text().split()[1]) * 4096 >> 20
            actors = used("ray::MapWorker")
            largest, seconds = max((m for m, _ in actors), default=0), sum(s for _, s in actors)
            self.rows.append((self.done, time.perf_counter(), own_seconds(), own, largest, seconds))


def show(watch: Watch) -> None:
    """What came after the first tenth: so without the start of Ray and of the actors."""
    (first, *_), last = (row for row in watch.rows if row[0] * 10 >= watch.total), watch.rows[-1]
    images, seconds, own, _, _, actors = (b - a for a, b in zip(first, last))
    print(f"{images} images in {seconds:.1f} s: {images / seconds:.1f} images/s")
    ms, rate = 1e3 * actors / images, images / max(actors, 1e-9)
    print(f"actors: {ms:.3f} ms of processor time an image, {rate:.0f} images/s per core")
    print(f"coordinator: {1e6 * own / images:.0f} µs of processor time, {images / own:.0f} images/s at most")
    print("| images done | coordinator, MB | largest actor, MB |\n|---|---|---|")
    for done, _, _, memory, largest, _ in watch.rows:
        print(f"| {done} | {memory} | {largest} |")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--actors", type=int, default=2)
    parser.add_argument("--paths", type=int, default=100_000)
    args = parser.parse_args()
    print(machine())
    plan = Plan("local", actors=args.actors)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_images(folder, args.images)
        start = time.perf_counter()
        images, _ = find_images([str(folder / "in")])
        print(f"{len(images)} images listed in {time.perf_counter() - start:.1f} s")
        watch = Watch(len(images))
        outcome = segment_on_ray(images, Stub(), folder / "out", plan=plan, threads=1, on_images=watch)
        show(watch)
        print(
            f"{outcome.images} segmented, {len(outcome.failed)} failed, {outcome.segments.total()} segments"
        )
        start = time.perf_counter()
        again = segment_on_ray(images, Stub(), folder / "out", plan=plan, resume=True)
        print(f"resumed: {again.before} done before, {len(again.failed)} tried again")
    if args.paths:
        print(f"\nactors that do nothing, {args.paths} paths")
        ray_engine._Actor = Idle  # type: ignore[assignment, misc]
        names = [
            (f"/data/plates/plate{k // 1000:04}/image{k:07}.jpg", f"image{k:07}.jpg")
            for k in range(args.paths)
        ]
        with tempfile.TemporaryDirectory() as temporary:
            watch = Watch(len(names))
            segment_on_ray(names, None, temporary, plan=plan, on_images=watch)
            show(watch)


if __name__ == "__main__":
    main()
