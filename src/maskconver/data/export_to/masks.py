"""Folders of masks: `instances/<split>` (16-bit ids), `labels/<split>` (classes) and `classes.json`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image

from ...core.segments import lookup
from ...errors import DataError
from ...io.results import label_writer
from .item import Item, Output, below


@contextmanager
def masks(out: Output) -> Iterator[Callable[[Item], None]]:
    """Two PNGs an image. Things are numbered from 1 in `instances`, 0 is everything else."""
    labels = label_writer(out.folder, out.categories)

    def write(item: Item) -> None:
        things = [s.id for s in item.result if s.is_thing]
        if len(things) > 65535:
            raise DataError(f"{len(things)} objects do not fit 16 bits", where=item.name)
        out.place(item, below("images", item.split, item.name))
        labels(item.result, below(item.split, item.stem))
        ids = lookup(item.result.ids, things, range(1, len(things) + 1), 0)
        path = out.folder / below("instances", item.split, f"{item.stem}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(ids.astype(np.uint16)).save(path, "PNG")
        out.note_crowd(item)

    yield write
