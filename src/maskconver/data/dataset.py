"""`PanopticDataset`: what every reader offers, whatever the format on disk; and the way to open one."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from ..core.categories import Categories, differences
from ..core.config import InputConfig
from ..core.segmentation import Segmentation
from ..core.segments import SegmentTable, lookup
from ..errors import DataError
from ..io.images import MAX_PIXELS, read_image
from ..io.pixels import check_white_level
from ..io.sources import FileSource
from .layout import DataPaths


@dataclass(slots=True)
class Sample:
    """One image and its annotation.

    Attributes:
        image: H×W×C uint8 (uint16 for 16 bits), RGB where the model says nothing else.
        ids: H×W int32 segment ids, 0 = void; not necessarily contiguous.
        segments: the table behind `ids`.
        image_id: the id in the data set.
        file_name: the image's name in the data set.
        info: all further keys of the image's row (`image_type`, …).
    """

    image: NDArray[Any]
    ids: NDArray[np.int32]
    segments: SegmentTable
    image_id: int | str = 0
    file_name: str = ""
    info: dict[str, Any] = field(default_factory=dict)

    def segmentation(self, categories: Categories) -> Segmentation:
        """The annotation as a model's result would be, with the image in it: to draw, or to compare.

        Ids of the map that are not listed become void.
        """
        table = self.segments
        return Segmentation.from_ids(
            lookup(self.ids, table.ids, table.ids, 0),
            categories,
            labels=table.labels,
            segment_ids=table.ids,
            image=self.image,
            file_name=self.file_name,
        )


class DataWarning(UserWarning):
    """A data set is usable, but not entirely as its owner may think."""


class PanopticDataset(Sequence[Sample]):
    """Images with annotation as a sequence of `Sample`; files are read when a sample is asked for.

    Instances can be pickled to loader workers.

    Attributes:
        path: the file that describes the data set, for messages.
        images: where the images are.
        categories: the label set.
        image_ids: the ids in order; int or str.
        file_names: the images' names in order.
        segment_counts: (N,) int64, the most segments each image can have, as known without opening it.
        unannotated: how many images have no annotation and are left out.
        max_pixels, white_level, channels, bits: as in `read_image`.
    """

    path: Path
    images: FileSource
    categories: Categories
    image_ids: list[int] | list[str] | list[int | str]
    file_names: list[str]
    segment_counts: NDArray[np.int64]
    unannotated: int = 0
    max_pixels: int = MAX_PIXELS
    white_level: float | None = None
    channels: int = 3
    bits: int = 8

    def __len__(self) -> int:
        return len(self.image_ids)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        """One image with its annotation; a slice gives a list.

        Raises:
            DataError: the annotation is missing, unreadable or does not fit the image.
            ImageError: the image is missing or damaged.
        """
        if isinstance(index, slice):
            return [self.sample(i) for i in range(*index.indices(len(self)))]
        return self.sample(index)

    @abstractmethod
    def sample(self, index: int) -> Sample:
        """One image with its annotation; segments without a pixel are left out of the table."""

    @abstractmethod
    def ids(self, index: int) -> NDArray[np.int32]:
        """The id map, H×W int32, 0 = void."""

    @abstractmethod
    def segments(self, index: int) -> SegmentTable:
        """The segments as the annotation lists them, those without pixels included."""

    @abstractmethod
    def info(self, index: int) -> dict[str, Any]:
        """What else is known about an image (`width`, `height`, …)."""

    @property
    @abstractmethod
    def paths(self) -> DataPaths:
        """Where its files are."""

    @abstractmethod
    def png_path(self, index: int) -> str:
        """What messages call the annotation's PNG."""

    def read_for(self, config: InputConfig, white_level: float | None = None) -> None:
        """Reads images as a model takes them: its channels, bits and white level (or the one given).

        Raises:
            ImageError: a white level that is not above 0.
        """
        self.channels, self.bits = config.channels, config.bits
        # What the data set was opened with, not what another model left behind.
        self.own_white_level = own = getattr(self, "own_white_level", self.white_level)
        given = (white_level, own, config.white_level)
        self.white_level = next((level for level in given if level is not None), None)
        check_white_level(self.white_level)

    def image(self, index: int) -> NDArray[Any]:
        """The image, H×W×`channels` uint8 (uint16 for 16 bits), upright."""
        name = self.file_names[index]
        where = self.images.where(name)
        data = self.images.read(name)
        return read_image(
            data,
            max_pixels=self.max_pixels,
            white_level=self.white_level,
            name=where,
            channels=self.channels,
            bits=self.bits,
        )

    def image_path(self, index: int) -> str:
        """What messages call the image."""
        return self.images.where(self.file_names[index])

    def require_fit(self, index: int, image: tuple[int, ...], ids: tuple[int, ...]) -> None:
        """Refuses an annotation of another size than its image.

        Raises:
            DataError: names both.
        """
        if image[:2] != ids:
            raise DataError(
                f"{ids[1]}×{ids[0]}, but the image {self.image_path(index)} is {image[1]}×{image[0]}; "
                "they must be of one size",
                where=self.png_path(index),
            )

    def use_categories(self, categories: Categories) -> None:
        """Takes the order of another label set, so that labels mean the same in both.

        Raises:
            DataError: it has other ids, names or kinds; colours do not matter.
        """
        if found := differences(self.categories, categories, str(self.path), "the other label set"):
            raise DataError("; ".join(text for _, text in found[:3]), kind=found[0][0])
        self._relabel(categories.labels_of(self.categories))
        self.categories = categories

    def _relabel(self, new: NDArray[np.int64]) -> None:
        """Puts `new[label]` in the place of each stored label."""
