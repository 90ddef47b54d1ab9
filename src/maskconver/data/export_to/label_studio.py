"""Label Studio: `labels.xml`, its interface, and for each split a folder of `tasks.json` and `images`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import IO, Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np

from ...core.segments import Segment
from .geometry import runs
from .item import Item, Output, below

_SIZES = (3, 4, 8, 16)  # bits that a run's length may take


@contextmanager
def label_studio(out: Output) -> Iterator[Callable[[Item], None]]:
    """Polygons; segments in several parts or with holes as brush strokes.

    What a model found becomes a prediction of the task, anything else its annotation.
    """
    labels = "".join(
        f'    <Label value={quoteattr(c.name)} background="#{"".join(f"{v:02x}" for v in c.color)}"/>\n'
        for c in out.categories
    )
    tags = "".join(
        f'  <{kind}Labels name="{kind.lower()}" toName="image">\n{labels}  </{kind}Labels>\n'
        for kind in ("Polygon", "Brush")
    )
    image = '  <Image name="image" value="$image" zoom="true"/>\n'
    out.write("labels.xml", f"<View>\n{image}{tags}</View>\n")
    files: dict[str, IO[str]] = {}
    with ExitStack() as stack:

        def write(item: Item) -> None:
            first = item.split not in files
            if first:
                path = out.folder / item.split / "tasks.json"
                path.parent.mkdir(exist_ok=True)
                files[item.split] = stack.enter_context(path.open("w", encoding="utf-8"))
            name = below(item.split, "images", item.name)
            out.place(item, name)
            result = [_region(item, segment) for segment in item.result]
            data = {"image": f"/data/local-files/?d={quote(name)}"}
            task: dict[str, Any] = {"data": data, "annotations": [{"result": result}]}
            if item.scored:
                mean = float(np.mean([s.score for s in item.result])) if result else 0.0
                shown = {"model_version": "maskconver", "score": round(mean, 5), "result": result}
                task = {"data": data, "predictions": [shown]}
            files[item.split].write(("[\n" if first else ",\n") + json.dumps(task, ensure_ascii=False))
            out.note_crowd(item)

        yield write
        for file in files.values():
            file.write("\n]\n")


def _region(item: Item, segment: Segment) -> dict[str, Any]:
    height, width = item.size
    ring = item.single_ring(segment)
    kind = "brush" if ring is None else "polygon"
    value: dict[str, Any] = {f"{kind}labels": [segment.category]}
    if ring is None:
        value |= {"format": "rle", "rle": brush_rle(runs(item.result.mask(segment.id)))}
    else:
        value |= {"points": (ring * 100.0 / (width, height)).tolist(), "closed": True}
    region = {
        "id": f"segment{segment.id}",
        "type": f"{kind}labels",
        "from_name": kind,
        "to_name": "image",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": value,
    }
    return region | ({"score": round(segment.score, 5)} if item.scored else {})


def brush_rle(lengths: list[int]) -> list[int]:
    """Label Studio's run-length code of a mask, as the values of its bytes.

    A stream of bits: how many values there are (32 bits; four a pixel, as of an RGBA image), the bits of a
    value less one (5), the four sizes of lengths in bits less one (4 each); then of every run a 1, which size
    its length takes (2), the length less one, and the value (8).

    Args:
        lengths: of the runs of background and object in turn, background first.
    """
    bits = [f"{4 * sum(lengths):032b}", f"{7:05b}", *(f"{size - 1:04b}" for size in _SIZES)]
    for k, pixels in enumerate(lengths):
        left = 4 * pixels
        while left > 0:
            length = min(left, 1 << _SIZES[-1])
            which = next(i for i, size in enumerate(_SIZES) if length <= 1 << size)
            bits.append(f"1{which:02b}{length - 1:0{_SIZES[which]}b}{255 * (k % 2):08b}")
            left -= length
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return list(int(text, 2).to_bytes(len(text) // 8, "big"))
