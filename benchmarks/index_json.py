"""Time and peak memory of indexing a panoptic JSON of COCO's size (118,000 images, 1.3 million segments).

Run: .venv/bin/python benchmarks/index_json.py

The file is generated in a temporary folder; each reader runs in a fresh process.
"""

from __future__ import annotations

import json
import platform
import random
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from maskconver.core.categories import Categories

IMAGES, RUNS = 118_000, 3

MEASURE = """
import resource, sys, time
{imports}
start = time.perf_counter()
index = {call}
seconds = time.perf_counter() - start
unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9)
"""
READERS = {
    "maskconver `read_panoptic_json`": (
        "from maskconver.io.panoptic_json import read_panoptic_json",
        "read_panoptic_json(sys.argv[1])",
    ),
    "`json.load` alone": ("import json", "json.load(open(sys.argv[1]))"),
}


def generate(path: Path) -> int:
    """Write a file like COCO's `panoptic_train2017.json`; returns the number of segments."""
    rng = random.Random(0)
    categories = Categories.coco()
    category_ids = categories.ids.tolist()
    segments = 0
    images, annotations = [], []
    for i in range(IMAGES):
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
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "panoptic_train.json"
        segments = generate(path)
        print(f"{IMAGES} images, {segments} segments, {path.stat().st_size / 1e6:.0f} MB\n")
        print(f"| reader | seconds (best of {RUNS}) | peak memory of the process, GB |\n|---|---|---|")
        for name, (imports, call) in READERS.items():
            program = MEASURE.format(imports=imports, call=call)
            answers = []
            for _ in range(RUNS):
                command = [sys.executable, "-c", program, str(path)]
                output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                answers.append([float(v) for v in output.split()])
            seconds, peak = min(answers)
            print(f"| {name} | {seconds:.2f} | {peak:.2f} |")
    packages = ", ".join(f"{p} {version(p)}" for p in ("maskconver", "msgspec", "numpy"))
    print(f"\nPython {platform.python_version()}, {platform.machine()} {platform.system()}; {packages}")
    print("Command: python benchmarks/index_json.py")


if __name__ == "__main__":
    main()
