"""COCO instances: `annotations/instances_<split>.json` and `images/<split>`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count as count_from
from typing import IO, Any

import numpy as np

from ...core.rle import encode_segments
from .item import Item, Output, below


@contextmanager
def coco_instances(out: Output) -> Iterator[Callable[[Item], None]]:
    """Polygons, or run lengths of segments with holes and of crowds; things and stuff alike."""
    kinds = ("stuff", "thing")
    categories = [row | {"supercategory": kinds[row["isthing"]]} for row in out.categories.to_json()]
    files: dict[str, IO[str]] = {}
    images: dict[str, list[dict[str, Any]]] = {}
    taken: dict[str, set[int]] = {}
    count = 0
    with ExitStack() as stack:

        def write(item: Item) -> None:
            nonlocal count
            split = item.split
            if split not in files:
                path = out.folder / "annotations" / f"instances_{split or 'all'}.json"
                path.parent.mkdir(exist_ok=True)
                files[split] = stack.enter_context(path.open("w", encoding="utf-8"))
                files[split].write('{"annotations": [')
                images[split] = []
            rows, file = images[split], files[split]
            out.place(item, below("images", split, item.name))
            height, width = item.size
            used, number = taken.setdefault(split, set()), item.image_id
            if not isinstance(number, int) or number in used:  # COCO's tools want whole numbers
                number = next(n for n in count_from(len(rows) + 1) if n not in used)
                out.note("image ids that are no numbers, or taken, are numbered anew", 1)
            used.add(number)
            rows.append({"id": number, "file_name": item.name, "height": height, "width": width})
            numbers = [
                s.id for s in item.result if s.id in item.crowd or any(h for _, h in item.polygons[s.id])
            ]
            codes = dict(zip(numbers, encode_segments(item.result.ids, np.array(numbers, np.int64))))
            for segment in item.result:
                crowd = segment.id in item.crowd
                shape: Any = [outer.ravel().tolist() for outer, _ in item.polygons[segment.id]]
                if segment.id in codes:
                    shape = codes[segment.id][0]
                count += 1
                row = {
                    "id": count,
                    "image_id": number,
                    "category_id": segment.category_id,
                    "iscrowd": int(crowd),
                    "area": segment.area,
                    "bbox": list(segment.bbox),
                    "segmentation": shape,
                }
                row |= {"score": round(segment.score, 5)} if item.scored else {}
                file.write(("," if file.tell() > 17 else "") + "\n" + json.dumps(row))

        yield write
        for split, file in files.items():
            tail = {"images": images[split], "categories": categories}
            file.write("\n],\n" + json.dumps(tail, ensure_ascii=False)[1:] + "\n")
