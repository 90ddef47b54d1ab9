"""labelme: a JSON beside each image."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from PIL import Image

from ...core.segments import Segment
from .item import Item, Output, below


@contextmanager
def labelme(out: Output) -> Iterator[Callable[[Item], None]]:
    """Polygons, those of one segment with a common `group_id`; segments with holes as masks."""

    def write(item: Item) -> None:
        content = labelme_content(item, out.place(item, below(item.split, item.name)))
        out.write(below(item.split, f"{item.stem}.json"), json.dumps(content, ensure_ascii=False))

    yield write
    out.write("labels.txt", "".join(f"{c.name}\n" for c in out.categories))


def labelme_content(item: Item, place: str) -> dict[str, Any]:
    """The JSON of one image.

    Args:
        item: with its segments.
        place: how the JSON names the image file.
    """
    height, width = item.size
    return {
        "version": "5.5.0",
        "flags": {},
        "shapes": [shape for segment in item.result for shape in _shapes(item, segment)],
        "imagePath": place,
        "imageData": None,
        "imageHeight": height,
        "imageWidth": width,
    }


def _shapes(item: Item, segment: Segment) -> list[dict[str, Any]]:
    common: dict[str, Any] = {"label": segment.category, "group_id": None, "description": "", "flags": {}}
    if item.scored:
        common |= {"description": f"score {segment.score:.2f}", "score": round(segment.score, 5)}
    if segment.id in item.crowd:
        common["flags"] = {"crowd": True}
    parts = item.polygons[segment.id]
    if any(holes for _, holes in parts):
        x, y, width, height = segment.bbox
        file = io.BytesIO()
        Image.fromarray(item.crop(segment).astype(np.uint8)).save(file, "PNG")
        mask = base64.b64encode(file.getvalue()).decode("ascii")
        points = [[x, y], [x + width - 1, y + height - 1]]  # both corners belong to the mask
        return [common | {"shape_type": "mask", "points": points, "mask": mask}]
    common |= {"shape_type": "polygon", "mask": None, "group_id": segment.id if len(parts) > 1 else None}
    return [common | {"points": outer.tolist()} for outer, _ in parts]
