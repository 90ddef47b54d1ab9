"""`SemanticView`: any panoptic data set read as semantic segmentation, every class one stuff segment."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..core.categories import Categories, Category, differences, made_up_color
from ..core.config import InputConfig
from ..core.segments import Runs, SegmentTable
from ..errors import DataError
from .dataset import PanopticDataset, Sample
from .layout import DataPaths

Classes = Literal["all", "things"]


class SemanticView(PanopticDataset):
    """A data set whose instances are forgotten: one segment per class, its id the label + 1.

    Crowd counts as its class. Void stays void.

    Args:
        dataset: what is read.
        classes: `all`; or `things`, with all else that has a class as the class `background` (id 0), as
            in the published semantic pre-training.

    Raises:
        DataError: `things` of data without things, or with a category 0 already.
    """

    def __init__(self, dataset: PanopticDataset, classes: Classes = "all") -> None:
        self.dataset = dataset
        self.path, self.images = dataset.path, dataset.images
        self.image_ids, self.file_names = dataset.image_ids, dataset.file_names
        self.unannotated = dataset.unannotated
        self.max_pixels, self.white_level = dataset.max_pixels, dataset.white_level
        self.own_white_level = getattr(dataset, "own_white_level", dataset.white_level)
        self.channels, self.bits = dataset.channels, dataset.bits
        own = dataset.categories
        self.categories, self._label = semantic_categories(own, classes)
        self.segment_counts = np.minimum(dataset.segment_counts, len(self.categories))

    def read_for(self, config: InputConfig, white_level: float | None = None) -> None:
        """As of any data set, also of the one that is read."""
        super().read_for(config, white_level)
        self.dataset.read_for(config, white_level)

    def sample(self, index: int) -> Sample:
        """One image; classes without a pixel are left out of the table."""
        sample = self.dataset[index]
        sample.ids = self._ids(sample.ids, sample.segments)
        sample.segments = self._table(sample.ids)
        return sample

    def ids(self, index: int) -> NDArray[np.int32]:
        """The class map, H×W int32, label + 1; 0 = void."""
        return self._ids(self.dataset.ids(index), self.dataset.segments(index))

    def segments(self, index: int) -> SegmentTable:
        """The classes that have a pixel, in label order."""
        return self._table(self.ids(index))

    def info(self, index: int) -> dict[str, Any]:
        """As the data set says."""
        return self.dataset.info(index)

    def _relabel(self, new: NDArray[np.int64]) -> None:
        self._label = new[self._label]

    @property
    def paths(self) -> DataPaths:
        """Where the files of the data set are."""
        return self.dataset.paths

    def png_path(self, index: int) -> str:
        """What messages call the annotation's PNG."""
        return self.dataset.png_path(index)

    def _ids(self, ids: NDArray[np.int32], segments: SegmentTable) -> NDArray[np.int32]:
        # Ids may be as large as 2²⁴: they are looked up run by run, not in a table of all.
        runs = Runs.of(ids)
        order = np.argsort(segments.ids)
        known = np.append(segments.ids[order], -1)
        at = np.searchsorted(known[:-1], runs.ids)
        value = np.append(self._label[segments.labels[order]] + 1, 0)[np.where(known[at] == runs.ids, at, -1)]
        return np.repeat(value.astype(np.int32), runs.length).reshape(ids.shape)

    def _table(self, ids: NDArray[np.int32]) -> SegmentTable:
        areas = np.bincount(ids.ravel(), minlength=len(self.categories) + 1)[1:]
        labels = np.flatnonzero(areas)
        return SegmentTable(
            (labels + 1).astype(np.int32), labels, np.zeros(len(labels), bool), areas[labels].astype(np.int64)
        )


def semantic_categories(own: Categories, classes: Classes) -> tuple[Categories, NDArray[np.int64]]:
    """All-stuff categories, and (C,) int64 the new label of each old one.

    Raises:
        DataError: see `SemanticView`.
    """
    if classes == "all":
        return Categories(Category(c.id, c.name, False, c.color) for c in own), np.arange(len(own))
    if not own.is_thing.any():
        raise DataError("the data has no things, so there is nothing to segment as things: use all")
    if own.ids.min() == 0:
        raise DataError("category id 0 is taken, but the class background needs it: use all classes")
    things = [Category(c.id, c.name, False, c.color) for c in own if c.is_thing]
    label = np.where(own.is_thing, np.cumsum(own.is_thing), 0)
    return Categories([Category(0, "background", False, made_up_color(0)), *things]), label


def as_model_sees(dataset: PanopticDataset, categories: Categories) -> PanopticDataset:
    """The data as a semantic model of their classes needs them; the data themselves for any other model."""
    if categories.is_thing.any() or not dataset.categories.is_thing.any():
        return dataset
    choices: tuple[Classes, ...] = ("all", "things")
    for classes in choices:
        try:
            view = SemanticView(dataset, classes)
        except DataError:
            continue
        if not differences(view.categories, categories, "the data", "the model"):
            return view  # perhaps in another order, see `use_categories`
    return dataset
