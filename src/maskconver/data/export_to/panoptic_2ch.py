"""panopticapi's PNGs of two channels: the category in red, the object's number in green, 0 for stuff."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image

from ...core.segments import lookup
from ...errors import DataError
from .item import Item, Output, below


@contextmanager
def panoptic_2ch(out: Output) -> Iterator[Callable[[Item], None]]:
    """`panoptic_2ch/<split>` and `categories.json`; objects of a class are numbered from 1."""
    if out.categories.ids.min() < 1 or out.categories.ids.max() > 255:
        raise DataError("ids of classes outside 1…255 do not fit a channel of 8 bits")
    out.write("categories.json", json.dumps(out.categories.to_json(), ensure_ascii=False))

    def write(item: Item) -> None:
        counts: dict[int, int] = {}
        keys = []
        for segment in item.result:
            number = counts[segment.category_id] = counts.get(segment.category_id, 0) + segment.is_thing
            if number > 255:
                raise DataError(
                    f"more than 255 objects of {segment.category} do not fit 8 bits", where=item.name
                )
            keys.append(segment.category_id | number << 8)
        both = lookup(item.result.ids, [s.id for s in item.result], keys, 0)
        out.place(item, below("images", item.split, item.name))
        path = out.folder / below("panoptic_2ch", item.split, f"{item.stem}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.stack([both & 255, both >> 8, np.zeros_like(both)], 2).astype(np.uint8)
        Image.fromarray(pixels).save(path, "PNG")
        out.note_crowd(item)

    yield write
