"""A COCO panoptic data set written image by image, never held in memory."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..core.categories import Categories
from ..core.exchange import features, table
from ..core.files import atomic_path
from ..core.panoptic_png import write_panoptic_png
from ..core.segmentation import Segmentation
from ..core.segments import let_go
from ..errors import MissingExtraError
from .label_png import IGNORE


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
    with panoptic_json(folder / "panoptic.json", categories, image_ids) as add:

        def write(result: Segmentation, stem: str) -> None:
            # An earlier run's JSON does not describe the PNGs that are replaced from here on.
            (folder / "panoptic.json").unlink(missing_ok=True)
            write_panoptic_png(folder / "panoptic" / f"{stem}.png", result.ids)
            add(result.to_coco(0, f"{stem}.png"), result.file_name, result.ids.shape)

        yield write


@contextmanager
def panoptic_json(
    path: Path, categories: Categories, image_ids: dict[str, int | str]
) -> Iterator[Callable[[dict[str, Any], str, tuple[int, ...]], None]]:
    """Writes a panoptic JSON row by row, as `panoptic_writer` does.

    Yields:
        A function of an annotation, which gets its image id here, and of its image's file name and size.
    """
    images: list[dict[str, Any]] = []
    stopped = False
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:

        def add(row: dict[str, Any], file_name: str, size: tuple[int, ...]) -> None:
            row["image_id"] = image_ids.get(file_name, len(images) + 1)
            file.write((",\n" if images else "") + json.dumps(row, ensure_ascii=False))
            shape = {"height": size[0], "width": size[1]}
            images.append({"id": row["image_id"], "file_name": file_name} | shape)

        file.write('{"annotations": [\n')
        try:
            yield add
        except KeyboardInterrupt:
            stopped = True
        tail = {"images": images, "categories": categories.to_json()}
        file.write("\n],\n" + json.dumps(tail, ensure_ascii=False)[1:] + "\n")
    if stopped:
        raise KeyboardInterrupt


def label_writer(folder: Path, categories: Categories) -> Callable[[Segmentation, str], None]:
    """Writes `classes.json` now, and gives a function that writes an image's `labels/STEM.png`.

    What is written can be read as a label folder again. Values are category ids minus 1, as reading adds 1
    (positions where an id is 0 or does not fit 16 bits); pixels without a class are 255, or 65535 in 16 bits
    where there are more.

    Args:
        folder: is made.
        categories: of all images.

    Raises:
        OSError: nothing can be written.
    """
    fitting = categories.ids.min(initial=1) > 0 and categories.ids.max(initial=1) <= 65535
    values = categories.ids - 1 if fitting else np.arange(len(categories))
    dtype: type[np.unsignedinteger] = np.uint8 if values.max(initial=0) < IGNORE else np.uint16
    ignore = int(np.iinfo(dtype).max)
    table = np.array([*values, ignore], dtype)  # -1, no label, is the last
    rows = [
        {"label": int(v), "name": c.name, "color": list(c.color), "thing": c.is_thing}
        for v, c in zip(values, categories)
    ]
    (folder / "labels").mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / "classes.json") as temporary:
        text = json.dumps({"ignore": ignore, "classes": rows}, ensure_ascii=False, indent=1)
        temporary.write_text(text, encoding="utf-8")

    def write(result: Segmentation, stem: str) -> None:
        with atomic_path(folder / "labels" / f"{stem}.png") as temporary:
            Image.fromarray(table[result.category_map()]).save(temporary, "PNG", compress_level=3)

    return write


@contextmanager
def table_writer(
    path: Path, *, intensity: bool = False, pixel_size: float | None = None
) -> Iterator[Callable[[Segmentation], None]]:
    """Writes a CSV with a row for each segment of every image; it takes its name when the block ends.

    Args:
        path: of the CSV.
        intensity: adds the mean brightness, 0…255; the segmentations then need their images.
        pixel_size: as of `core.exchange.table`, which lists the columns. The first is `image`, the file name.

    Yields:
        A function of a segmentation.

    Raises:
        OSError: it cannot be written, or the disk is full; there is then no file.
    """
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        started = False

        def write(result: Segmentation) -> None:
            nonlocal started
            values = result.brightness() if intensity else None
            columns = table(result.ids, result.segments, intensity=values, pixel_size=pixel_size)
            if not started:
                writer.writerow(["image", *columns])
                started = True
            plain = [np.round(c, 5).tolist() if isinstance(c, np.ndarray) else c for c in columns.values()]
            writer.writerows((result.file_name, *row) for row in zip(*plain))

        yield write


def write_geojson(path: Path, result: Segmentation, *, pixel_size: float | None = None) -> None:
    """Write the features of `core.exchange.features`, one a line.

    Raises:
        OSError: it cannot be written; nothing is left behind.
    """
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write('{"type": "FeatureCollection", "features": [')
        rows = features(result.ids, result.segments, result.categories, pixel_size=pixel_size)
        for i, row in enumerate(rows):
            file.write((",\n" if i else "\n") + json.dumps(row, ensure_ascii=False))
        file.write("\n]}\n")


def write_large(folder: Path, stem: str, result: Segmentation, *, pixel_size: float | None = None) -> None:
    """Write an image too large for a PNG: `STEM.tif`, its ids in tiles, and `STEM.geojson`, its things.

    Raises:
        MissingExtraError: tifffile is not installed.
        OSError: they cannot be written; nothing is left behind.
    """
    try:
        from tifffile import imwrite
    except ModuleNotFoundError:
        raise MissingExtraError("writing large results", "tiff") from None
    ids = result.ids
    side = 512

    def tiles() -> Iterator[NDArray[np.uint32]]:
        for y in range(0, ids.shape[0], side):
            for x in range(0, ids.shape[1], side):
                yield ids[y : y + side, x : x + side].astype(np.uint32)
            let_go(ids)

    with atomic_path(folder / f"{stem}.tif") as temporary:
        own: dict[str, Any] = {"compression": "zlib", "tile": (side, side), "bigtiff": ids.nbytes > 1 << 32}
        imwrite(temporary, tiles(), shape=ids.shape, dtype=np.uint32, metadata=None, **own)
    things = replace(result, segments=[s for s in result if s.is_thing])
    write_geojson(folder / f"{stem}.geojson", things, pixel_size=pixel_size)
