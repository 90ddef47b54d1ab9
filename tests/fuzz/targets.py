"""What is fuzzed: files as the commands read them, made once, and one spoiled copy a case."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from maskconver.data.synth.write import synthesize, write_dataset
from tests.data.conversion import coco_sets, tool_exports

from . import mutate

TOOLS = (
    "labelme",
    "labelme_xml",
    "cvat",
    "via",
    "via_csv",
    "label_studio",
    "label_studio_min",
    "supervisely",
)


class Evil:
    """A pickle of it makes a file when it is executed."""

    def __init__(self, canary: str) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.canary,)


@dataclass
class Case:
    """One command line, and what must hold where it ends with 0."""

    argv: list[str]
    check: Callable[[], None] = lambda: None


def copy_of(source: Path, folder: Path) -> Path:
    """A copy of a folder, or a file, that may be spoiled."""
    target = folder / source.name
    shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    return target


def spoil(path: Path, rng: random.Random) -> None:
    """Spoils one file of a folder, or a file."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    chosen = rng.choice(files)
    if rng.random() < 0.03 and path.is_dir():
        chosen.unlink()
        return
    chosen.write_bytes(mutate.file(chosen.read_bytes(), chosen.suffix, rng))


def make(target: str, seeds: Path) -> None:
    """The sound files of a target."""
    {"image": _images, "model": _model, "onnx": _onnx, "tflite": _tflite, "checkpoint": _checkpoint,
     "convert": _exports, "recipe": _recipes}.get(target, _data)(seeds)  # fmt: skip


def case(target: str, seeds: Path, folder: Path, rng: random.Random) -> Case:
    """Writes a spoiled input below a folder; results go to its `out`."""
    return _CASES[target](seeds, folder, rng)


def _images(seeds: Path) -> None:
    rgb = synthesize("scenes", (40, 56), 1).image
    grey = rgb[..., 0]
    deep, real = grey.astype(np.uint16) * 257, grey.astype(np.float32) / 255
    files: dict[str, tuple[Any, dict[str, Any]]] = {
        **dict.fromkeys(("rgb.png", "rgb.jpg", "rgb.webp", "rgb.tif", "rgb.bmp"), (rgb, {})),
        "grey.png": (grey, {}),
        "deep.png": (deep, {}),
        "deep.tif": (deep, {}),
        "float.tif": (real, {}),
        "progressive.jpg": (rgb, {"progressive": True}),
        "lzw.tif": (rgb, {"compression": "tiff_lzw"}),
        "jpeg.tif": (rgb, {"compression": "jpeg"}),
        "deflate.tif": (grey, {"compression": "tiff_adobe_deflate"}),
    }
    for name, (array, options) in files.items():
        Image.fromarray(array).save(seeds / name, **options)
    Image.fromarray(rgb).quantize(16).save(seeds / "palette.png")
    Image.fromarray(rgb).quantize(16).save(
        seeds / "two.gif", save_all=True, append_images=[Image.fromarray(grey)]
    )
    Image.fromarray(rgb).convert("CMYK").save(seeds / "cmyk.jpg")
    Image.fromarray(rgb).convert("RGBA").save(seeds / "rgba.webp", lossless=True)
    import tifffile

    deep = rgb.astype(np.uint16) * 257
    tifffile.imwrite(
        seeds / "planar.tif", np.moveaxis(deep, 2, 0), photometric="rgb", planarconfig="separate"
    )
    tifffile.imwrite(seeds / "tiles.tif", rgb, photometric="rgb", tile=(16, 16), compression="zlib")


def _predict_image(seeds: Path, folder: Path, rng: random.Random) -> Case:
    path = copy_of(rng.choice(sorted(seeds.iterdir())), folder)
    spoil(path, rng)
    options = [
        o
        for o in ("--overlay", "--labels", "--geojson", "--white-level=4095", "--draft-jpeg")
        if rng.random() < 0.15
    ]
    if "--overlay" in options and "--draft-jpeg" in options:
        options.remove("--draft-jpeg")
    out = folder / "out"

    def check() -> None:
        content = json.loads((out / "panoptic.json").read_text())
        (row,) = content["images"]
        assert 0 < row["width"] * row["height"] <= 4_000_000
        with Image.open(out / "panoptic" / content["annotations"][0]["file_name"]) as image:
            assert image.size == (row["width"], row["height"])

    return Case(["predict", "fake", str(path), f"--out={out}", "--max-pixels=4000000", *options], check)


def _data(seeds: Path) -> None:
    data = seeds / "data"
    write_dataset(data, "scenes", 2, size=(32, 40), split="train")
    write_dataset(data, "scenes", 1, size=(32, 40), split="val")
    with zipfile.ZipFile(seeds / "images.zip", "w") as file:
        for path in sorted((data / "images" / "train").iterdir()):
            file.write(path, path.name)
    labels = seeds / "labels"
    for kind in ("images", "labels"):
        (labels / kind / "train").mkdir(parents=True)
    for k in range(2):
        sample = synthesize("scenes", (32, 40), k)
        Image.fromarray(sample.image).save(labels / "images" / "train" / f"{k}.png")
        Image.fromarray((sample.ids % 4).astype(np.uint8)).save(labels / "labels" / "train" / f"{k}.png")
    rows = [{"label": k, "name": f"class {k}"} for k in range(4)]
    (labels / "classes.json").write_text(json.dumps({"ignore": 255, "classes": rows}))


def _read_all(folder: Path) -> None:
    from maskconver.data import open_dataset
    from maskconver.data.layout import find_splits

    for split in find_splits(folder):  # the file of one may be the one that was removed
        for sample in open_dataset(folder, split):
            assert sample.image.shape[:2] == sample.ids.shape


def _read_ids(folder: Path, split: str) -> None:
    from maskconver.data import open_dataset

    dataset = open_dataset(folder, split)  # images are not looked into by a conversion
    assert all(dataset.ids(i).size for i in range(len(dataset)))


def _check_data(seeds: Path, folder: Path, rng: random.Random) -> Case:
    data = copy_of(seeds / rng.choice(("data", "data", "data", "labels")), folder)
    spoil(data, rng)
    out, act = folder / "out", rng.randrange(8)
    if act == 0:
        return Case(["data", "stats", str(data)])
    if act == 1:
        to = rng.choice(
            ("coco-instances", "yolo-seg", "labelme", "cvat", "label-studio", "masks", "panoptic-2ch")
        )
        return Case(["data", "export", str(data), f"--to={to}", f"--out={out}"])
    if act == 2 and data.name == "data":
        copy_of(seeds / "images.zip", folder)
        spoil(folder / "images.zip", rng)
        return Case(["data", "check", str(data), "--split=train", f"--images={folder / 'images.zip'}"])
    more = ["--json"] if act == 3 else ["--headers-only"] if act == 4 else []
    check = (lambda: None) if more == ["--headers-only"] else lambda: _read_all(data)
    return Case(["data", "check", str(data), "--max-pixels=4000000", *more], check)


def _exports(seeds: Path) -> None:
    for name in TOOLS:
        (seeds / name).mkdir()
        getattr(tool_exports, name)(seeds / name)
    (seeds / "coco").mkdir()
    coco_sets.coco_set(seeds / "coco")
    (seeds / "yolo").mkdir()
    coco_sets.yolo_set(seeds / "yolo", {"train/a": coco_sets.yolo_line(0, [0.1, 0.1, 0.5, 0.1, 0.5, 0.6])})
    (seeds / "zipped").mkdir()
    with zipfile.ZipFile(seeds / "zipped" / "export.zip", "w") as file:
        for path in sorted((seeds / "labelme").rglob("*.*")):
            file.write(path, path.relative_to(seeds / "labelme"))


def _convert(seeds: Path, folder: Path, rng: random.Random) -> Case:
    source = copy_of(rng.choice(sorted(seeds.iterdir())), folder)
    if source.name == "zipped" and rng.random() < 0.3:
        with zipfile.ZipFile(source / "export.zip", "a") as file:
            name = rng.choice(
                (
                    "../escaped.json",
                    "/tmp/escaped.json",
                    "a/../../escaped.json",
                    "C:\\escaped.json",
                    "one.json",
                )
            )
            file.writestr(name, rng.choice((b"{}", bytes(100), b"[" * 1000)))
    else:
        spoil(source, rng)
    given = source / "export.zip" if source.name == "zipped" else source
    out = folder / "out" / "set"
    more = [
        o
        for o in ("--overlaps=order", "--images=copy", "--max-side=20", "--background=void")
        if rng.random() < 0.1
    ]

    def check() -> None:
        for path in out.glob("panoptic_*.json"):
            _read_ids(out, path.stem.removeprefix("panoptic_"))

    return Case(["data", "convert", str(given), str(out), *more], check)


def _pq(seeds: Path, folder: Path, rng: random.Random) -> Case:
    data = copy_of(seeds / "data", folder)
    truth = seeds / "data" / "panoptic_train.json"
    spoil(rng.choice((data / "panoptic_train.json", data / "panoptic" / "train")), rng)
    pair = [str(truth), str(data / "panoptic_train.json")]
    folders = [f"--gt-folder={seeds}/data/panoptic/train", f"--pred-folder={data}/panoptic/train"]
    if rng.random() < 0.3:
        pair, folders = (
            pair[::-1],
            [f"--gt-folder={data}/panoptic/train", f"--pred-folder={seeds}/data/panoptic/train"],
        )
    return Case(["pq", *pair, *folders, "--json"])


def _recipes(seeds: Path) -> None:
    from maskconver.recipes import find_recipe

    for name in ("start", "nuclei"):
        path = Path(find_recipe(name))
        shutil.copy(path, seeds / path.name)


def _train_recipe(seeds: Path, folder: Path, rng: random.Random) -> Case:
    path = copy_of(rng.choice(sorted(seeds.iterdir())), folder)
    spoil(path, rng)
    path.write_bytes(path.read_bytes().replace(b"CANARY", os.fsencode(folder / "CANARY")))
    return Case(["train", f"--config={path}", "--print_config"])


def _model(seeds: Path) -> None:
    import maskconver as mc

    categories = mc.Categories.from_json(
        [{"id": k, "name": name, "isthing": k, "color": [k, 2, 3]} for k, name in enumerate(("a", "b"))]
    )
    small = {"filters": 16, "embedding_dim": 16, "proposals": 4, "input": {"size": (32, 32)}}
    model = mc.create_model("maskconver_mobile_dense_512", categories=categories, **small)
    mc.save(model, seeds / "model.safetensors")
    Image.fromarray(synthesize("scenes", (32, 32), 1).image).save(seeds / "a.png")


def _predict_with(name: str) -> Callable[[Path, Path, random.Random], Case]:
    def run(seeds: Path, folder: Path, rng: random.Random) -> Case:
        path = copy_of(seeds / name, folder)
        spoil(path, rng)
        return Case(["predict", str(path), str(seeds / "a.png"), f"--out={folder / 'out'}", "--device=cpu"])

    return run


def _onnx(seeds: Path) -> None:
    _model(seeds)
    import maskconver as mc

    mc.export_model(mc.load(seeds / "model.safetensors"), seeds / "model.onnx", size=(32, 32))


def _tflite(seeds: Path) -> None:
    given = os.environ.get("MASKCONVER_TFLITE")
    _model(seeds)
    if given:
        shutil.copy(given, seeds / "model.tflite")
        return
    import maskconver as mc

    mc.export_model(mc.load(seeds / "model.safetensors"), seeds / "model.tflite", size=(32, 32))


def _checkpoint(seeds: Path) -> None:
    import torch

    state = {f"layer{k}.weight": torch.zeros(4, 3) for k in range(3)}
    torch.save({"state_dict": state}, seeds / "new.pth")
    torch.save(state, seeds / "old.pth", _use_new_zipfile_serialization=False)


def _import(seeds: Path, folder: Path, rng: random.Random) -> Case:
    path = folder / "weights.pth"
    if rng.random() < 0.3:
        evil: Any = Evil(str(folder / "CANARY"))
        content = rng.choice((evil, {"state_dict": evil}, {"state_dict": {"a": evil}}, [evil]))
        if rng.random() < 0.5:
            path.write_bytes(pickle.dumps(content, protocol=rng.choice((0, 2, 4))))
        else:
            import torch

            torch.save(content, path, _use_new_zipfile_serialization=rng.random() < 0.5)
    else:
        path = copy_of(rng.choice(sorted(seeds.iterdir())), folder)
        spoil(path, rng)
    return Case(["import-weights", "kmax", str(path), f"--out={folder / 'out' / 'm.safetensors'}"])


_CASES: dict[str, Callable[[Path, Path, random.Random], Case]] = {
    "image": _predict_image, "data": _check_data, "convert": _convert, "pq": _pq, "recipe": _train_recipe,
    "model": _predict_with("model.safetensors"), "onnx": _predict_with("model.onnx"),
    "tflite": _predict_with("model.tflite"), "checkpoint": _import,
}  # fmt: skip
SHARES = {
    "image": 0.36, "data": 0.2, "convert": 0.2, "pq": 0.08, "recipe": 0.04, "model": 0.04, "onnx": 0.03,
    "tflite": 0.03, "checkpoint": 0.02,
}  # fmt: skip
"""Of all cases, by target."""
