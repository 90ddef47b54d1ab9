"""A small, sound COCO panoptic data set on disk, for tests to break."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskconver.io.panoptic_json import write_panoptic_png

CATEGORIES = [
    {"id": 1, "name": "car", "isthing": 1, "color": [0, 0, 142]},
    {"id": 7, "name": "person", "isthing": 1, "color": [220, 20, 60]},
    {"id": 40, "name": "road", "isthing": 0, "color": [128, 64, 128]},
]


def id_map() -> NDArray[np.int32]:
    """24×32: road 300 with a car 5 and a person 70000 on it, two lines of void above."""
    ids = np.full((24, 32), 300, np.int32)
    ids[:2] = 0
    ids[4:10, 4:12] = 5
    ids[12:20, 18:24] = 70000
    return ids


def content() -> dict[str, Any]:
    """The JSON that belongs to `id_map`."""
    ids = id_map()
    segments = [
        {"id": i, "category_id": c, "area": int((ids == i).sum()), "bbox": [0, 0, 1, 1], "iscrowd": 0}
        for i, c in ((300, 40), (5, 1), (70000, 7))
    ]
    return {
        "images": [{"id": 1, "file_name": "a.png", "width": 32, "height": 24}],
        "annotations": [{"image_id": 1, "file_name": "a.png", "segments_info": segments}],
        "categories": [dict(c) for c in CATEGORIES],
    }


def write(
    folder: Path,
    change: Callable[[dict[str, Any]], Any] | None = None,
    ids: NDArray[np.int32] | None = None,
) -> Path:
    """Write the data set, its JSON changed in place by `change`; returns the JSON's path."""
    data = content()
    if change is not None:
        change(data)
    (folder / "png").mkdir(parents=True, exist_ok=True)
    write_panoptic_png(folder / "png" / "a.png", id_map() if ids is None else ids)
    path = folder / "panoptic.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    return path
