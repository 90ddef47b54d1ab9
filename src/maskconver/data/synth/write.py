"""Generated panoptic data sets: any size and count, the same bytes for the same seed."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image

from ...core.categories import Categories
from ...core.files import MAX_PIXELS, atomic_path
from ...core.processes import process_pool
from ...core.segments import measure
from ...errors import ConfigError, DataError
from ...io.lock import hold
from ...io.panoptic_json import write_panoptic_png
from ..dataset import Sample
from .cells import CELLS, cells
from .houses import HOUSES, houses
from .scenes import SCENES, scenes

Style = Literal["scenes", "cells", "houses"]
STYLES: tuple[Style, ...] = get_args(Style)
_MAKERS: dict[str, tuple[Callable[..., Sample], Categories]] = {
    "scenes": (scenes, SCENES),
    "cells": (cells, CELLS),
    "houses": (houses, HOUSES),
}


def synth_categories(style: Style) -> Categories:
    """The label set of a style.

    Raises:
        ConfigError: there is no such style.
    """
    if style not in _MAKERS:
        raise ConfigError(f'no style "{style}"; there are {", ".join(STYLES)}')
    return _MAKERS[style][1]


def synthesize(style: Style, size: tuple[int, int], seed: int | tuple[int, ...] = 0) -> Sample:
    """One generated image with its exact annotation.

    `scenes`: textured landscape, overlapping things of five classes, stuff in islands, crowd, void.
    `cells`: nuclei under the fluorescence microscope, of many sizes, touching, blurred and noisy; grey.
    `houses`: house fronts with windows as things, a street and shrubs; the classes of the model `facade`.

    Example:
        >>> import maskconver as mc
        >>> mc.data.synthesize("houses", size=(96, 128), seed=1).image.shape
        (96, 128, 3)

    Args:
        style: `scenes`, `cells` or `houses`; labels are those of `synth_categories(style)`.
        size: height and width in pixels, each at least 1.
        seed: the same seed gives the same image; several numbers make one seed.

    Raises:
        ConfigError: no such style, or a size below 1.
    """
    synth_categories(style)
    if min(size) < 1:
        raise ConfigError(f"size {size[0]}×{size[1]} is not possible; height and width must be 1 or more")
    rng = np.random.default_rng(np.atleast_1d(np.abs(seed)))
    return _MAKERS[style][0]((int(size[0]), int(size[1])), rng)


def write_dataset(
    out: str | os.PathLike[str],
    style: Style,
    count: int,
    *,
    size: tuple[int, int],
    seed: int = 0,
    split: str = "train",
    overwrite: bool = False,
    workers: int = 1,
    progress: Callable[[], Any] | None = None,
) -> Path:
    """Write a split of a generated data set: `panoptic_<split>.json`, `images/<split>`, `panoptic/<split>`.

    Splits differ, and image k of a split is the same whatever the count. The JSON is written last.

    Args:
        out: the folder; made if it is not there.
        style, size, seed: as in `synthesize`.
        count: how many images.
        split: name of the split.
        overwrite: replace a split of this name.
        workers: processes; the result does not depend on it.
        progress: called after every image.

    Returns:
        The path of the JSON.

    Raises:
        ConfigError: no such style, or a size or count below 1.
        DataError: the split is there already.
        OSError: the folder cannot be written.
    """
    categories = synth_categories(style)
    if count < 1:
        raise ConfigError(f"a data set of {count} images is not possible; give 1 or more")
    if min(size) < 1 or size[0] * size[1] > MAX_PIXELS:
        what = f"height and width must be 1 or more, with at most {MAX_PIXELS} pixels in all"
        raise ConfigError(f"size {size[0]}×{size[1]} is not possible; {what}")
    if not split or not split.replace("_", "").replace("-", "").isalnum():
        raise ConfigError(f'"{split}" cannot be the name of a split; use letters and digits')
    out = Path(out)
    path = out / f"panoptic_{split}.json"
    if path.exists() and not overwrite:
        raise DataError(
            f"{path}: this split is there already; choose another folder or allow it with `overwrite`"
        )
    with hold(out / f".{split}.lock", f"the split {split} of {out}") as lock:
        path.unlink(missing_ok=True)  # it does not describe the files that are replaced from here on
        for kind in ("images", "panoptic"):
            (out / kind / split).mkdir(parents=True, exist_ok=True)
        digits = max(5, len(str(count)))
        names = [f"{style}_{k:0{digits}d}.png" for k in range(1, count + 1)]
        write = partial(
            _write_one, out=out, style=style, size=size, seed=seed, split=split, categories=categories
        )
        rows = []
        with process_pool(workers) if workers > 1 else nullcontext() as pool:
            for row in (pool.map if pool else map)(write, enumerate(names, 1)):
                rows.append(row)
                lock.beat()
                if progress:
                    progress()
        content = {
            "info": {"description": f"generated: {style}, seed {seed}, split {split}", "version": "1.0"},
            "licenses": [],
            "images": [image for image, _ in rows],
            "annotations": [annotation for _, annotation in rows],
            "categories": categories.to_json(),
        }
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(content, separators=(",", ":")), encoding="utf-8")
        return path


def _write_one(
    numbered: tuple[int, str],
    *,
    out: Path,
    style: Style,
    size: tuple[int, int],
    seed: int,
    split: str,
    categories: Categories,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Writes image and PNG; returns their rows of `images` and `annotations`."""
    number, name = numbered
    sample = synthesize(style, size, (seed, zlib.crc32(split.encode()), number))
    pixels = sample.image[..., 0] if style == "cells" else sample.image
    with atomic_path(out / "images" / split / name) as temporary:
        Image.fromarray(np.ascontiguousarray(pixels)).save(temporary, "PNG")
    write_panoptic_png(out / "panoptic" / split / name, sample.ids)
    table = sample.segments
    areas, boxes = measure(sample.ids, table.ids)
    segments = [
        {
            "id": int(table.ids[k]),
            "category_id": int(categories.ids[table.labels[k]]),
            "area": int(areas[k]),
            "bbox": boxes[k].tolist(),
            "iscrowd": int(table.crowd[k]),
        }
        for k in range(len(table))
    ]
    image = {"id": number, "file_name": name, "width": size[1], "height": size[0], **sample.info}
    return image, {"image_id": number, "file_name": name, "segments_info": segments}
