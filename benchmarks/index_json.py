"""Time and peak memory of indexing a panoptic JSON of COCO's size (118,000 images, 1.3 million segments).

Run: .venv/bin/python benchmarks/index_json.py

The file is generated in a temporary folder; each reader runs in a fresh process.
"""

from __future__ import annotations

import json
import random
import tempfile
import time
from pathlib import Path

from harness import arguments, fresh, in_turn, machine, peak, table


def strict(path: str) -> object:
    """The index of this package."""
    from maskconver.io.panoptic_json import read_panoptic_json

    return read_panoptic_json(path)


def plain(path: str) -> object:
    """Everything as Python objects."""
    return json.loads(Path(path).read_bytes())


READERS = {"maskconver `read_panoptic_json`": strict, "`json.loads` alone": plain}


def measure(reader: str, path: str) -> tuple[float, float]:
    """Seconds, and peak memory of this process in GB."""
    times = in_turn({"": lambda: READERS[reader](path)}, 1, warm=0, clock=time.perf_counter)
    return times[""][0], peak()


def generate(path: Path, count: int) -> int:
    """Write a file like COCO's `panoptic_train2017.json`; returns the number of segments."""
    from maskconver.core.categories import Categories

    rng = random.Random(0)
    categories = Categories.coco()
    category_ids = categories.ids.tolist()
    segments = 0
    images, annotations = [], []
    for i in range(count):
        name = f"{i:012d}"
        url = f"http://images.cocodataset.org/train2017/{name}.jpg"
        image = {"license": 3, "file_name": f"{name}.jpg", "coco_url": url, "height": 480, "width": 640}
        images.append(
            json.dumps(image | {"date_captured": "2013-11-14 11:18:45", "flickr_url": url, "id": i})
        )
        ids = rng.sample(range(1, 1 << 24), rng.randint(4, 18))
        segments += len(ids)
        rows = [
            {
                "id": s,
                "category_id": rng.choice(category_ids),
                "iscrowd": 0,
                "bbox": [rng.randint(0, 600), rng.randint(0, 400), rng.randint(1, 600), rng.randint(1, 400)],
                "area": rng.randint(1, 200_000),
            }
            for s in ids
        ]
        annotations.append(json.dumps({"segments_info": rows, "file_name": f"{name}.png", "image_id": i}))
    tail = json.dumps(categories.to_json())
    lists = f'"images": [{", ".join(images)}], "annotations": [{", ".join(annotations)}]'
    path.write_text(f'{{{lists}, "categories": {tail}}}')
    return segments


def main() -> None:
    """Prints a table of the readers."""
    parser = arguments(__doc__)
    parser.add_argument("--images", type=int, default=118_000)
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "panoptic_train.json"
        segments = generate(path, args.images)
        print(f"{args.images} images, {segments} segments, {path.stat().st_size / 1e6:.0f} MB\n")
        row = table("reader", f"seconds (best of {args.runs})", "peak memory of the process, GB")
        for name in READERS:
            seconds, memory = min(fresh(measure, name, str(path)) for _ in range(args.runs))
            row(name, f"{seconds:.2f}", f"{memory:.2f}")
    print(f"\n{machine('maskconver', 'msgspec', 'numpy')}")


if __name__ == "__main__":
    main()
