"""`export`: a data set, or the results of a model, in the format of another tool."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ...core.categories import Categories, differences
from ...core.files import make_readable
from ...core.segmentation import Segmentation
from ...core.segments import lookup
from ...errors import ConfigError, DataError, ImageError
from ...io.images import image_size
from ..dataset import PanopticDataset
from ..layout import find_splits
from ..open import open_dataset
from .item import Images, Item, Output

FORMATS = (
    "coco-instances",
    "yolo-seg",
    "labelme",
    "cvat",
    "label-studio",
    "cityscapes",
    "masks",
    "panoptic-2ch",
)
_HOLD_STUFF = ("coco-instances", "cityscapes", "masks", "panoptic-2ch")
_MODULES = {"coco-instances": "coco", "yolo-seg": "yolo"}


@dataclass
class Exported:
    """What an export did.

    Attributes:
        folder: what was written.
        format: of `FORMATS`.
        images, segments: how many were written.
        notes: what the format cannot hold, in words, and how often that was so.
        failed: (file, reason) of the images that are left out.
    """

    folder: Path
    format: str
    images: int = 0
    segments: int = 0
    notes: Counter[str] = field(default_factory=Counter)
    failed: list[tuple[str, str]] = field(default_factory=list)


def export(
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    to: str,
    *,
    split: str | None = None,
    images: Images = "copy",
    image_folder: str | os.PathLike[str] | None = None,
    things_only: bool = False,
    simplify: float = 0.0,
    progress: Callable[[int], Callable[[], Any]] | None = None,
) -> Exported:
    """Write a data set in the format of another tool.

    Polygons run along pixel borders, so that what is read back has the same pixels. What a format cannot hold
    is counted in `notes`. Images that cannot be read are left out and listed.

    Example:
        >>> import maskconver as mc
        >>> mc.data.export("my_data", "my_yolo", "yolo-seg", split="val").images
        2

    Args:
        data: the folder of a data set, as for `open_dataset`.
        out: a folder that does not exist yet or is empty. It appears when everything is written.
        to: `coco-instances`, `yolo-seg`, `labelme`, `cvat`, `label-studio`, `cityscapes`,
            `masks` or `panoptic-2ch`.
        split: only this one; all by default.
        images: `copy` the image files, `link` them (hard links, or symbolic ones to another disk), or `none`.
        image_folder: folder or .zip of the images, if they are not in the data set.
        things_only: leave stuff out.
        simplify: simplify polygons by at most this many pixels; 0 keeps them exact.
        progress: called with the number of images; what it returns is called after each.

    Returns:
        What was done.

    Raises:
        ConfigError: no such format, or a value that is not possible.
        DataError: the data set cannot be read, its splits have other classes, `out` holds files, or no image
            could be written.
        OSError: `out` cannot be written; nothing is left behind.
    """
    names: list[str | None] = [split] if split else [*find_splits(data)] or [None]
    sets = [(name, open_dataset(data, name, images=image_folder)) for name in names]
    categories = sets[0][1].categories
    for name, dataset in sets[1:]:
        if found := differences(categories, dataset.categories, f"{names[0]}", f"{name}"):
            raise DataError(f"the splits have other classes: {found[0][1]}", where=os.fspath(data))
        dataset.use_categories(categories)
    if things_only:
        if not categories.is_thing.any():
            raise ConfigError("`things_only` leaves nothing to write: the data set has only stuff")
        categories = Categories(c for c in categories if c.is_thing)
    with writing(Path(out), to, categories, images=images, simplify=simplify) as (done, write):
        advance = progress(sum(len(dataset) for _, dataset in sets)) if progress else None
        for name, dataset in sets:
            for index in range(len(dataset)):
                try:
                    write(_item(dataset, index, name or "", categories, images))
                except (DataError, ImageError) as error:
                    done.failed.append((error.where or dataset.image_path(index), error.text))
                if advance:
                    advance()
        if not done.images:
            where, reason = done.failed[0]
            raise DataError(f"no image could be written; the first: {reason}", where=where)
    return done


@contextmanager
def writing(
    out: Path,
    to: str,
    categories: Categories,
    *,
    images: Images = "copy",
    simplify: float = 0.0,
    keep_stopped: bool = False,
) -> Iterator[tuple[Exported, Callable[[Item], None]]]:
    """Writes a folder in a format, image after image; it takes its name when the block ends well.

    Without any image there is no folder.

    Args:
        out, to, images, simplify: as for `export`.
        categories: of all images.
        keep_stopped: after Ctrl-C, keep what was written.

    Yields:
        What was done so far, and a function of an image.

    Raises:
        As `export`.
    """
    if to not in FORMATS:
        raise ConfigError(f'no format "{to}" to write; there are {", ".join(FORMATS)}')
    if simplify < 0:
        raise ConfigError(f"`simplify={simplify:g}` must be 0 or more pixels")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError("is there already", where=str(out), fix="choose another folder, or remove it")
    out.parent.mkdir(parents=True, exist_ok=True)
    function = to.replace("-", "_")
    writer = getattr(import_module(f".{_MODULES.get(to, function)}", __package__), function)
    done, taken, stopped = Exported(out, to), set[tuple[str, str]](), False
    staging = Path(tempfile.mkdtemp(prefix=f".{out.name[:40]}.", dir=out.parent))
    try:
        output = Output(staging, out, categories, images, done.notes)
        with writer(output) as put:

            def write(item: Item) -> None:
                item.name, item.simplify = _unique(item, taken), simplify
                put(item)
                done.images += 1
                done.segments += len(item.result)
                if to not in _HOLD_STUFF:
                    stuff = sum(not s.is_thing for s in item.result)
                    output.note("stuff regions are written like objects", stuff)

            try:
                yield done, write
            except KeyboardInterrupt:
                if not keep_stopped or not done.images:
                    raise
                stopped = True
        if not done.images:
            shutil.rmtree(staging)
            return
        make_readable(staging, 0o777)
        if out.is_dir():
            out.rmdir()
        staging.rename(out)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    if stopped:
        raise KeyboardInterrupt


@contextmanager
def writing_results(
    out: Path, to: str, categories: Categories
) -> Iterator[Callable[[Segmentation, str, Path], None]]:
    """Writes results of a model as `writing` does; after Ctrl-C, what is done is kept.

    Yields:
        A function of a result, a stem for its files, and the image's file.

    Raises:
        As `export`.
    """
    with writing(out, to, categories, keep_stopped=True) as (_, write):

        def write_one(result: Segmentation, stem: str, image: Path) -> None:
            plain = replace(result, image=None, semantic=None)  # classes are those of the segments
            write(Item(plain, stem + image.suffix, image=image, scored=True))

        yield write_one


def _item(dataset: PanopticDataset, index: int, split: str, categories: Categories, images: Images) -> Item:
    name, ids, table = dataset.file_names[index], dataset.ids(index), dataset.segments(index)
    image: Path | Callable[[], bytes] | None = None
    found = dataset.images.find(name)
    if found is None and images != "none":
        dataset.images.read(name)  # says what is missing
    if found is not None:
        image = partial(dataset.images.read, found) if dataset.images.is_zip else dataset.images.path / found
        size = image_size(image() if callable(image) else image, name=dataset.image_path(index))
        dataset.require_fit(index, size, ids.shape)
    wanted = np.isin(dataset.categories.ids, categories.ids)
    table = table[np.isin(table.ids, ids) & wanted[table.labels]]
    ids = lookup(ids, table.ids, table.ids, 0)  # without those that are not listed, or not wanted
    labels = (np.cumsum(wanted) - 1)[table.labels]
    result = Segmentation.from_ids(ids, categories, labels=labels, segment_ids=table.ids)
    crowd = frozenset(table.ids[table.crowd].tolist())
    return Item(result, name, split, image, dataset.image_ids[index], crowd)


def _unique(item: Item, taken: set[tuple[str, str]]) -> str:
    """The image's name, numbered where another of its split differs in the ending only."""
    path, number = PurePosixPath(item.name), 1
    name = path
    while (item.split, str(name.with_suffix("")).lower()) in taken:
        number += 1
        name = path.with_stem(f"{path.stem}_{number}")
    taken.add((item.split, str(name.with_suffix("")).lower()))
    return str(name)
