"""A small, sound panoptic data set to be spoiled one way at a time."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

SEGMENTS = ((300, 40, (0, 2, 32, 22)), (5, 1, (4, 4, 8, 6)), (70000, 7, (18, 12, 6, 8)))


def colours(ids: np.ndarray) -> np.ndarray:
    return np.stack([ids & 255, ids >> 8 & 255, ids >> 16], axis=-1).astype(np.uint8)


def base_ids() -> np.ndarray:
    """24×32: road with a car and a person on it; the first two lines are void."""
    ids = np.zeros((24, 32), np.int32)
    for number, _, (x, y, w, h) in SEGMENTS:
        ids[y : y + h, x : x + w] = number
    return ids


def base_json() -> dict[str, Any]:
    ids = base_ids()
    rows = [
        {"id": n, "category_id": c, "area": int((ids == n).sum()), "bbox": list(b), "iscrowd": 0}
        for n, c, b in SEGMENTS
    ]
    return {
        "images": [{"id": 1, "file_name": "a.png", "width": 32, "height": 24, "weather": "rain"}],
        "annotations": [{"image_id": 1, "file_name": "a.png", "segments_info": rows}],
        "categories": [
            {"id": 1, "name": "car", "isthing": 1, "color": [0, 0, 142]},
            {"id": 7, "name": "person", "isthing": 1, "color": [220, 20, 60]},
            {"id": 40, "name": "road", "isthing": 0, "color": [128, 64, 128]},
        ],
    }


Spoil = Callable[..., Path]


@pytest.fixture
def spoiled(tmp_path: Path) -> Spoil:
    """`spoiled(change)`: a folder with the base set, after `change(content)` was applied to its JSON.

    `text` replaces the JSON's text; `ids` the id map; `save(path, colours)` writes the PNG in its own way.
    """

    def make(
        change: Callable[[dict[str, Any]], Any] | None = None,
        *,
        text: str | bytes | None = None,
        ids: np.ndarray | None = None,
        save: Callable[[Path, np.ndarray], Any] | None = None,
    ) -> Path:
        content = copy.deepcopy(base_json())
        if change is not None:
            content = change(content) or content
        for folder in ("images", "png"):
            (tmp_path / folder).mkdir(exist_ok=True)
        Image.fromarray(np.full((24, 32, 3), 90, np.uint8)).save(tmp_path / "images" / "a.png")
        pixels = colours(base_ids() if ids is None else ids)
        (save or (lambda path, array: Image.fromarray(array).save(path)))(tmp_path / "png" / "a.png", pixels)
        data = json.dumps(content) if text is None else text
        (tmp_path / "panoptic.json").write_bytes(data if isinstance(data, bytes) else data.encode())
        return tmp_path

    return make
