"""Cityscapes: `leftImg8bit` and `gtFine` with instanceIds and labelIds."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath

import numpy as np
from PIL import Image

from ...core.segments import lookup
from ...errors import DataError
from ..conversion.readers.cityscapes import LABELS
from .item import Item, Output, below

MAX_CLASS, MAX_INSTANCES = 65, 1000  # class · 1000 + number must fit 16 bits
MAX_STUFF = 256  # labelIds have 8 bits


@contextmanager
def cityscapes(out: Output) -> Iterator[Callable[[Item], None]]:
    """The numbers of Cityscapes' own classes where all names are theirs; else category ids, or positions.

    `gtFine/labels.json` says which number is which class, as other classes than Cityscapes' need it.
    """
    names = {label.name: label.id for label in LABELS if label.id >= 0}
    own = out.categories
    if all(c.name in names for c in own):
        numbers = [names[c.name] for c in own]
    else:
        most = MAX_CLASS if own.is_thing.any() else MAX_STUFF
        fits = own.ids.min() > 0 and own.ids.max() < MAX_CLASS
        numbers = own.ids.tolist() if fits else list(range(1, len(own) + 1))
        if max(numbers) >= most:
            raise DataError(f"cityscapes holds up to {most - 1} classes, there are {len(own)}")
        rows = [
            {"id": n, "name": c.name, "hasInstances": c.is_thing, "color": list(c.color)}
            for n, c in zip(numbers, own)
        ]
        out.write("gtFine/labels.json", json.dumps(rows, ensure_ascii=False, indent=1))

    def write(item: Item) -> None:
        split = item.split or "train"
        path = PurePosixPath(item.name)
        city = path.parent.name or "images"
        stem = path.stem.removesuffix("_leftImg8bit")
        values, counts = [], dict.fromkeys(numbers, 0)
        for segment in item.result:
            number = value = numbers[segment.label]
            if segment.is_thing and segment.id not in item.crowd:
                if counts[number] == MAX_INSTANCES:
                    raise DataError(
                        f"more than {MAX_INSTANCES} objects of the class {segment.category}", where=item.name
                    )
                value = 1000 * number + counts[number]
                counts[number] += 1
            values.append(value)
        out.place(item, below("leftImg8bit", split, city, f"{stem}_leftImg8bit{path.suffix}"))
        again = len(values) - len(set(values))
        out.note("stuff or crowd regions of one class in one image are one region", again)
        ids = [s.id for s in item.result]
        instances = lookup(item.result.ids, ids, values, 0)
        classes = np.where(instances < 1000, instances, instances // 1000)
        for kind, pixels in (
            ("instanceIds", instances.astype(np.uint16)),
            ("labelIds", classes.astype(np.uint8)),
        ):
            target = out.folder / below("gtFine", split, city, f"{stem}_gtFine_{kind}.png")
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(target, "PNG")

    yield write
