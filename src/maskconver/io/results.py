"""A COCO panoptic data set written image by image, never held in memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..core.categories import Categories
from ..core.files import atomic_path
from ..core.panoptic_png import write_panoptic_png
from ..core.segmentation import Segmentation


@contextmanager
def panoptic_writer(
    folder: Path, categories: Categories, image_ids: dict[str, int | str]
) -> Iterator[Callable[[Segmentation, str], None]]:
    """Writes `panoptic.json` and `panoptic/*.png` into a folder, one image after the other.

    The JSON grows on disk and takes its name when the block ends; after Ctrl-C it holds what was done.

    Args:
        folder: is made.
        categories: of all images.
        image_ids: by file name; the others are numbered from 1.

    Yields:
        A function of a segmentation and the stem of its PNG. It need not be called from one thread only, but
        from one at a time.

    Raises:
        OSError: nothing can be written, or the disk is full; there is then no JSON.
    """
    images: list[dict[str, Any]] = []
    stopped = False
    with atomic_path(folder / "panoptic.json") as temporary, temporary.open("w", encoding="utf-8") as file:

        def write(result: Segmentation, stem: str) -> None:
            write_panoptic_png(folder / "panoptic" / f"{stem}.png", result.ids)
            height, width = result.ids.shape
            number = image_ids.get(Path(result.file_name).name, len(images) + 1)
            row = json.dumps(result.to_coco(number, f"{stem}.png"), ensure_ascii=False)
            file.write((",\n" if images else "") + row)
            images.append({"id": number, "file_name": result.file_name, "height": height, "width": width})

        file.write('{"annotations": [\n')
        try:
            yield write
        except KeyboardInterrupt:
            stopped = True
        tail = {"images": images, "categories": categories.to_json()}
        file.write("\n],\n" + json.dumps(tail, ensure_ascii=False)[1:] + "\n")
    if stopped:
        raise KeyboardInterrupt
