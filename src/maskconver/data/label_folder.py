"""`LabelFolder`: images beside PNGs whose values are classes, as a sequence of `Sample`."""

from __future__ import annotations

import os
import unicodedata
import warnings
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.segments import SegmentTable
from ..errors import DataError
from ..io.images import MAX_PIXELS, SUFFIXES, image_size
from ..io.label_png import LabelClasses, read_classes, read_label_png
from ..io.sources import FileSource, plain_stem
from .dataset import DataWarning, PanopticDataset, Sample
from .layout import DataPaths

LABEL_SUFFIXES = frozenset({".png", ".tif", ".tiff"})
# What Cityscapes appends to the name of an image and to those of its labels; the training ids, which are made
# from the others, win where both are there.
ENDINGS = ("_leftImg8bit", "_gtFine_labelTrainIds", "_gtFine_labelIds")


class LabelFolder(PanopticDataset):
    """Images with one label PNG each: semantic segmentation as all-stuff panoptic data.

    A class is one segment of an image; its id in the id map and its category id are both value + 1, so that
    0 stays void. An image and its labels have the same name but for the ending; images without labels are
    left out and counted.

    Args:
        images: folder or .zip of the images.
        labels: folder or .zip of the label PNGs or TIFFs (8 or 16 bits, one channel or palette; value =
            class).
        classes: `classes.json` or `classes.txt`, see `read_classes`.
        max_pixels, white_level, channels, bits: as in `read_image`.

    Raises:
        DataError: a file or folder is missing, the classes make no sense, no image has labels.

    Warns:
        DataWarning: images without labels, labels without an image.
    """

    def __init__(
        self,
        images: str | os.PathLike[str],
        labels: str | os.PathLike[str],
        classes: str | os.PathLike[str],
        *,
        max_pixels: int = MAX_PIXELS,
        white_level: float | None = None,
        channels: int = 3,
        bits: int = 8,
    ) -> None:
        self.path = Path(classes)
        self.images, self.labels = FileSource(images), FileSource(labels)
        self.max_pixels, self.white_level, self.channels = max_pixels, white_level, channels
        self.bits = bits
        self.classes: LabelClasses = read_classes(classes)
        self.categories = self.classes.categories
        pairs, alone, extra = pair_files(self.images, self.labels)
        if not pairs:
            what = f"no label PNG has the name of an image in {self.images.path}"
            raise DataError(what, where=str(self.labels.path))
        self.image_ids, self.file_names, self._label_names = (list(column) for column in zip(*pairs))
        self.segment_counts = np.full(len(pairs), len(self.categories), np.int64)
        self.unannotated = len(alone)
        for names, source, what in (
            (alone, self.images, "images have no label PNG and are skipped"),
            (extra, self.labels, "label PNGs have no image and are not used"),
        ):
            if names:
                text = f"{len(names)} {what}, e.g. {names[0]} (`maskconver data check` lists all)"
                warnings.warn(f"{source.path}: {text}", DataWarning, stacklevel=2)
        self._last: tuple[int, NDArray[np.int32]] | None = None

    def sample(self, index: int) -> Sample:
        """One image with its annotation.

        Raises:
            DataError: labels missing, unreadable, with a value that is no class, or of another size.
            ImageError: the image is missing or damaged.
        """
        image, ids = self.image(index), self.ids(index)
        self.require_fit(index, image.shape, ids.shape)
        info = {"width": image.shape[1], "height": image.shape[0]}
        table = segment_table(ids, self.categories.ids)
        return Sample(image, ids, table, self.image_ids[index], self.file_names[index], info)

    def ids(self, index: int) -> NDArray[np.int32]:
        """The id map, H×W int32: value + 1, void (the value to ignore) 0."""
        index = range(len(self))[index]
        last = self._last
        if last is None or last[0] != index:  # ids and segments of one image are asked in a row
            name = self._label_names[index]
            last = index, read_label_png(self.labels.read(name), self.classes, self.labels.where(name))
            self._last = last
        return last[1]

    def segments(self, index: int) -> SegmentTable:
        """The classes that have a pixel, in label order."""
        return segment_table(self.ids(index), self.categories.ids)

    def info(self, index: int) -> dict[str, Any]:
        """`width` and `height` of the image in pixels, from its header."""
        name = self.file_names[index]
        height, width = image_size(self.images.read(name), name=self.images.where(name))
        return {"width": width, "height": height}

    @property
    def paths(self) -> DataPaths:
        """Where its files are."""
        return DataPaths.of(images=self.images.path, labels=self.labels.path, classes=self.path)

    def png_path(self, index: int) -> str:
        """What messages call the label PNG."""
        return self.labels.where(self._label_names[index])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last": None}


def segment_table(ids: NDArray[np.int32], category_ids: NDArray[np.int64]) -> SegmentTable:
    """One row for every class of an id map (id = category id) that has a pixel, in label order."""
    areas = np.bincount(ids.ravel(), minlength=int(category_ids.max()) + 1)[category_ids]
    labels = np.flatnonzero(areas)
    crowd = np.zeros(len(labels), bool)
    return SegmentTable(category_ids[labels].astype(np.int32), labels, crowd, areas[labels])


def pair_files(
    images: FileSource, labels: FileSource
) -> tuple[list[tuple[str, str, str]], list[str], list[str]]:
    """Images and label PNGs by their common name.

    Where there is none, letters may differ in case, and the labels' name may hold the image's ending.

    Returns:
        (id, image, label PNG) of each pair, sorted; images without labels; label PNGs without an image.

    Raises:
        DataError: two files have one name.
    """
    by_stem = _by_stem(images, SUFFIXES)
    pngs = _by_stem(labels, LABEL_SUFFIXES)
    plain = Counter(map(plain_stem, by_stem))
    meant = {plain_stem(stem): stem for stem in by_stem.keys() - pngs.keys() if plain[plain_stem(stem)] == 1}
    left = Counter(plain_stem(stem) for stem in pngs.keys() - by_stem.keys())
    pngs = {
        meant.get(key, stem) if stem not in by_stem and left[key := plain_stem(stem)] == 1 else stem: name
        for stem, name in pngs.items()
    }
    pairs = [(stem, by_stem[stem], pngs[stem]) for stem in sorted(by_stem.keys() & pngs.keys())]
    alone = [by_stem[stem] for stem in sorted(by_stem.keys() - pngs.keys())]
    return pairs, alone, [pngs[stem] for stem in sorted(pngs.keys() - by_stem.keys())]


def _by_stem(source: FileSource, suffixes: frozenset[str]) -> dict[str, str]:
    names = [n for n in source.names() if PurePosixPath(n).suffix.lower() in suffixes]
    marked = [n for n in names if PurePosixPath(n).stem.endswith(ENDINGS)]
    found: dict[str, tuple[str, str]] = {}
    for name in marked or names:  # where names have such an ending, the files without are something else
        stem = str(PurePosixPath(name).with_suffix(""))
        ending = next((e for e in ENDINGS if stem.endswith(e)), "")
        stem = unicodedata.normalize("NFC", stem.removesuffix(ending))
        other, other_ending = found.get(stem, ("", ending))
        if other and ending == other_ending:
            raise DataError(
                f"{name} and {other} both belong to {stem}", where=str(source.path), fix="keep one of them"
            )
        if not other or ENDINGS.index(ending) < ENDINGS.index(other_ending):
            found[stem] = name, ending
    return {stem: name for stem, (name, _) in found.items()}
