"""Small COCO instances and YOLO sets to be converted, and spoiled one way at a time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import maskconver as mc

WIDTH, HEIGHT = 24, 16
SQUARE = [2.0, 2.0, 12.0, 2.0, 12.0, 10.0, 2.0, 10.0]  # along the borders of pixels: 10 × 8
SMALL = [4, 4, 8, 4, 8, 7, 4, 7]  # 4 × 3, inside the square


def photo(path: Path, size: tuple[int, int] = (HEIGHT, WIDTH), **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), 90, np.uint8)).save(path, **options)
    return path


def annotation(number: int, image: int, category: int, outline: Any, **more: Any) -> dict[str, Any]:
    row = {"id": number, "image_id": image, "category_id": category, "segmentation": outline, "iscrowd": 0}
    return row | more


def coco_json(names: Sequence[str] = ("a.png",)) -> dict[str, Any]:
    """Images that each hold a cat (the square) and a dog (the small one)."""
    rows = []
    for k in range(1, len(names) + 1):
        rows += [annotation(2 * k - 1, k, 1, [SQUARE]), annotation(2 * k, k, 2, [SMALL])]
    return {
        "images": [
            {"id": k, "file_name": name, "width": WIDTH, "height": HEIGHT} for k, name in enumerate(names, 1)
        ],
        "annotations": rows,
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }


def write_json(path: Path, content: Any, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False), encoding=encoding)
    return path


def coco_set(folder: Path, names: Sequence[str] = ("a.png",)) -> dict[str, Any]:
    """Writes images and `instances.json`; returns its content."""
    for name in names:
        photo(folder / name)
    content = coco_json(names)
    write_json(folder / "instances.json", content)
    return content


def yolo_set(folder: Path, lines: dict[str, str], *, names: str = "[cat, dog]") -> None:
    """Writes `data.yaml` and, for each `train/a`, an image and the label file."""
    (folder / "data.yaml").parent.mkdir(parents=True, exist_ok=True)
    (folder / "data.yaml").write_text(
        f"train: ../train/images\nval: ../valid/images\nnc: 2\nnames: {names}\n"
    )
    for key, text in lines.items():
        split, name = key.split("/")
        photo(folder / split / "images" / f"{name}.png")
        label = folder / split / "labels" / f"{name}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text(text)


def yolo_line(number: int, points: Sequence[float]) -> str:
    sizes = (WIDTH, HEIGHT) * (len(points) // 2)
    return " ".join([str(number), *(f"{p / s:.6f}" for p, s in zip(points, sizes))])


def shown(folder: Path, split: str = "train", index: int = 0) -> dict[str, int]:
    """Pixels by class of an image of a converted set; objects of one class are added up."""
    data = mc.data.open_dataset(folder, split)
    ids, table = data.ids(index), data.segments(index)
    found: dict[str, int] = {}
    for number, label in zip(table.ids.tolist(), table.labels.tolist()):
        name = data.categories[label].name
        found[name] = found.get(name, 0) + int((ids == number).sum())
    return found
