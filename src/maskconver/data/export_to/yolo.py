"""YOLO segmentation: `data.yaml`, `images/<split>`, and `labels/<split>` with a line a segment."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath

from .geometry import one_ring
from .item import Item, Output, below


@contextmanager
def yolo_seg(out: Output) -> Iterator[Callable[[Item], None]]:
    """One ring per segment: parts and holes are joined to it by lines of no width; crowds are left out."""
    splits: dict[str, None] = {}

    def write(item: Item) -> None:
        splits[item.split] = None
        image = below("images", item.split, item.name)
        out.place(item, image)
        height, width = item.size
        lines = []
        for segment in item.result:
            if segment.id in item.crowd:
                continue
            parts = item.polygons[segment.id]
            ring = one_ring(parts) / (width, height)
            lines.append(" ".join([str(segment.label), *(f"{v:.7g}" for v in ring.ravel().tolist())]) + "\n")
            out.note("segments in several parts are one polygon, joined by lines of no width", len(parts) > 1)
            holes = any(holes for _, holes in parts)
            out.note("segments with holes are one polygon, cut open by lines of no width", holes)
        out.note_crowd(item, "crowd regions are left out")
        # YOLO looks for labels where the last folder `images` of the image's path is called `labels`.
        start, _, end = f"/{image}".rpartition("/images/")
        label = PurePosixPath(f"{start}/labels/{end}".lstrip("/")).with_suffix(".txt")
        out.write(str(label), "".join(lines))

    yield write
    folders = {split or "train": below("images", split) for split in splits}
    lines = [f"{split}: {folder}" for split, folder in folders.items()]
    # ultralytics refuses a data.yaml without one of these two, and one whose `val` does not exist.
    if "train" not in folders:
        lines.append("train: images/train  # has no images: this is for validation only")
    elif "val" not in folders:
        lines.append(f"val: {folders['train']}  # the training images, since there are no others")
    # Text in JSON is text in YAML, too.
    names = [f"  {k}: {json.dumps(c.name, ensure_ascii=False)}" for k, c in enumerate(out.categories)]
    out.write("data.yaml", "\n".join([*lines, "names:", *names, ""]))
