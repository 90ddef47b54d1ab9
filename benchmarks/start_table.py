"""What a start gives: runs of equal length from random weights, the bundled base and a timm backbone.

Run: .venv/bin/python benchmarks/start_table.py --data cats=DIR facade=DIR camvid=DIR --weights timm=lite0.pth

Each set is trained on 20, 100 and all of its training images, the small cuts twice with other images, and
measured on its validation images (CamVid: on its test images). All arms of a cut see the same images in the
same order. Every run is a `maskconver train` of its own in a folder below --out. Figures are kept in
results.json there: the same command goes on where it was stopped, and prints the table of what there is.

| arm | the run begins from |
|---|---|
| scratch | random weights |
| base | the bundled model `facade`, backbone and decoder |
| timm | backbone tf_efficientnet_lite0 with --weights timm=FILE, or timm's download; the rest random |
| mosaic | backbone MobileNet-MH with --weights mosaic=FILE; the rest random |

The base was trained on the training images of facade, so for other data the rows of cats and camvid count.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from harness import arguments, machine, table
from maskconver.core.files import atomic_path

SETS = {  # recipe, split that is measured, figure
    "cats": ("cats", "val", "pq_things"),
    "facade": ("start", "val", "pq"),
    "camvid": ("camvid", "test", "miou"),
}
ARMS = ("scratch", "base", "timm", "mosaic")
ALL = "all"


def cut(source: Path, count: str, seed: int, out: Path) -> Path:
    """A panoptic JSON of so many images, drawn by the seed; the file itself for all of them."""
    if count == ALL:
        return source
    whole = json.loads(source.read_text(encoding="utf-8"))
    chosen = random.Random(seed).sample(sorted(image["id"] for image in whole["images"]), int(count))
    parts = {
        "images": [row for row in whole["images"] if row["id"] in chosen],
        "annotations": [row for row in whole["annotations"] if row["image_id"] in chosen],
    }
    path = out / "cuts" / f"{source.parent.name}_{count}_{seed}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(whole | parts), encoding="utf-8")
    return path


def start_of(arm: str, weights: dict[str, str]) -> list[str]:
    """The options of an arm."""
    if arm == "base":
        return []
    words = ["--init-from=none"]
    if arm == "timm":
        words += ["--model.name=maskconver_lite0_dense_512"]
        words += [f"--model.backbone_weights={weights.get(arm, 'pretrained')}"]
    if arm == "mosaic":
        words += [f"--model.backbone_weights={weights[arm]}"]
    return words


def command(name: str, folder: Path, count: str, seed: int, run: Path, args: argparse.Namespace) -> list[str]:
    """The options of `maskconver train` for one run but those of its arm."""
    recipe, split, _ = SETS[name]
    files = {"train": cut(folder / "panoptic_train.json", count, seed, args.out)}
    files["val"] = folder / f"panoptic_{split}.json"
    words = [f"--config={recipe}", f"--out={run}", f"--seed={seed}", f"--steps={args.steps}", "--resume=auto"]
    for part, there in (("train", "train"), ("val", split)):
        words += [f"--data.{part}.panoptic_json={files[part]}"]
        words += [f"--data.{part}.images={folder / 'images' / there}"]
        words += [f"--data.{part}.panoptic_pngs={folder / 'panoptic' / there}"]
    words += [
        f"--val_every={args.steps}",
        "--checkpoint_every=50",
        "--log_images=0",
        f"--threads={args.threads}",
    ]
    if args.val_images:
        words.append(f"--data.val_images={args.val_images}")
    return [*words, *args.more]


def figures(run: Path, steps: int) -> dict[str, Any] | None:
    """What the last validation of a run found; None where it did not come to its end."""
    curve = run / "curve.jsonl"
    if not curve.is_file():
        return None
    last = json.loads(curve.read_text(encoding="utf-8").splitlines()[-1])
    return {k.removeprefix("val/"): v for k, v in last.items()} if last["step"] == steps else None


def show(results: dict[str, Any], sets: list[str], counts: list[str], arms: list[str], steps: int) -> None:
    """Prints the table: the mean over the seeds, and each of them where there are several."""
    row = table("set, figure in %", "training images", *arms)
    for name in sets:
        figure = SETS[name][2]
        for count in counts:
            cells = []
            for arm in arms:
                found = [
                    100 * v["figures"][figure]
                    for key, v in sorted(results.items())
                    if key.startswith(f"{name}/{count}/{arm}/{steps}/")
                ]
                each = f" ({', '.join(f'{v:.1f}' for v in found)})" if len(found) > 1 else ""
                cells.append(f"{statistics.mean(found):.1f}{each}" if found else "–")
            row(f"{name}, {figure}", count, *cells)


def main() -> int:
    """Runs what is missing and prints the table."""
    parser = arguments(__doc__)
    add = parser.add_argument
    add("--data", nargs="+", required=True, metavar="SET=DIR", help="folders of cats, facade, camvid")
    add("--sets", nargs="+", choices=SETS, help="which of them; all that are given by default")
    add("--arms", nargs="+", choices=ARMS, default=["scratch", "base", "timm"], help="which starts")
    add("--images", nargs="+", default=["20", "100", ALL], help="numbers of training images, or all")
    add("--seeds", type=int, default=2, help="runs of each small cut; all images are run once")
    add("--steps", type=int, default=1000, help="of every run")
    add("--weights", nargs="+", default=[], metavar="ARM=FILE", help="weights of the arms timm and mosaic")
    add("--val-images", type=int, help="measure on so many images only")
    add("--threads", type=int, default=1, help="of PyTorch")
    add("--out", type=Path, default=Path("runs/start_table"), help="folder of runs and results.json")
    add("--table", action="store_true", help="run nothing, print the table of what there is")
    add("--more", nargs=argparse.REMAINDER, default=[], help="options of every `maskconver train`, last")
    args = parser.parse_args()
    folders = {name: Path(path) for name, _, path in (text.partition("=") for text in args.data)}
    weights = dict(text.split("=", 1) for text in args.weights)
    if unknown := set(folders) - set(SETS):
        parser.error(f"--data: no set {', '.join(sorted(unknown))}; there are {', '.join(SETS)}")
    if "mosaic" in args.arms and "mosaic" not in weights:
        parser.error("the arm mosaic needs its file: --weights mosaic=FILE")
    sets = args.sets or [name for name in SETS if name in folders]
    if missing := [name for name in sets if name not in folders]:
        parser.error(f"--data: where is {', '.join(missing)}?")
    path = args.out / "results.json"
    results = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    failed = 0
    wanted = [
        (seed, count, name, arm)
        for seed in range(args.seeds)
        for count in args.images
        for name in sets
        for arm in args.arms
        if count != ALL or not seed
    ]
    for seed, count, name, arm in [] if args.table else wanted:
        key = f"{name}/{count}/{arm}/{args.steps}/{seed}"
        if key in results:
            continue
        run = args.out / key.replace("/", "_")
        words = command(name, folders[name], count, seed, run, args) + start_of(arm, weights)
        print(f"{time.strftime('%H:%M')} {key}", flush=True)
        begun = time.time()
        run.mkdir(parents=True, exist_ok=True)
        with (run / "log.txt").open("a", encoding="utf-8") as log:
            done = subprocess.run(
                [sys.executable, "-m", "maskconver.cli", "train", *words], stdout=log, stderr=log, check=False
            )
        found = figures(run, args.steps)
        if found is None:
            failed += 1
            print(f"  not finished (exit code {done.returncode}): {run / 'log.txt'}", flush=True)
            continue
        results[key] = {"figures": found, "seconds": round(time.time() - begun)}
        with atomic_path(path) as temporary:
            Path(temporary).write_text(json.dumps(results, indent=1), encoding="utf-8")
        (run / "last.ckpt").unlink(missing_ok=True)
    print(machine("torch", "timm"))
    show(results, sets, args.images, args.arms, args.steps)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
