"""`CocoPanoptic`: a COCO panoptic data set as a sequence of `Sample`, compact and cheap to pickle."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from ..categories import Categories
from ..errors import DataError
from .file_source import FileSource
from .images import MAX_PIXELS, read_image
from .layout import find_layout
from .sample import Sample, SegmentTable


class CocoPanoptic(Sequence[Sample]):
    """Images with COCO panoptic annotation, in the order of the file's `annotations`.

    The JSON is read once into flat columns; pictures and PNGs are read when a sample is asked for. Instances
    can be pickled to loader workers. Images without annotation are left out and counted.

    Args:
        images: folder or .zip of the pictures.
        panoptic_json: the COCO panoptic file.
        panoptic_pngs: folder or .zip of the PNGs; by default the one beside the JSON that has its name.
        max_pixels: as in `read_image`.
        white_level: as in `read_image`.

    Attributes:
        categories: the label set of the file.
        image_ids: the ids in order; int or str.
        segment_counts: (N,) int64, segments of each image as the file lists them.
        unannotated: how many images have no annotation.

    Raises:
        DataError: a file or folder is missing, or the JSON is not a sound COCO panoptic file.
    """

    def __init__(
        self,
        images: str | os.PathLike[str],
        panoptic_json: str | os.PathLike[str],
        panoptic_pngs: str | os.PathLike[str] | None = None,
        *,
        max_pixels: int = MAX_PIXELS,
        white_level: float | None = None,
    ) -> None:
        layout = find_layout(None, images=images, panoptic_json=panoptic_json, panoptic_pngs=panoptic_pngs)
        self.path = Path(panoptic_json)
        self.images = FileSource(layout.images)
        self.pngs = FileSource(layout.panoptic_pngs)
        self.max_pixels = max_pixels
        self.white_level = white_level
        self._index()

    def _index(self) -> None:
        import json

        raw = json.loads(self.path.read_text(encoding="utf-8-sig"))
        self.categories = Categories.from_json(raw["categories"])
        rows = {row["id"]: row for row in raw["images"]}
        annotations = raw["annotations"]
        self.unannotated = len(rows) - len(annotations)
        self.image_ids = [a["image_id"] for a in annotations]
        self.file_names = [rows[i]["file_name"] for i in self.image_ids]
        self._png_names = [a["file_name"] for a in annotations]
        self._info = [
            {k: v for k, v in rows[i].items() if k not in ("id", "file_name")} for i in self.image_ids
        ]
        self.segment_counts = np.array([len(a["segments_info"]) for a in annotations], np.int64)
        self._ends = np.cumsum(self.segment_counts)
        flat = [s for a in annotations for s in a["segments_info"]]
        self._columns = SegmentTable(
            np.array([s["id"] for s in flat], np.int32),
            np.array([self.categories.label(s["category_id"]) for s in flat], np.int64),
            np.array([s.get("iscrowd", 0) for s in flat], bool),
            np.array([s.get("area", 0) for s in flat], np.int64),
        )

    def __len__(self) -> int:
        return len(self.image_ids)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        """One image with its annotation.

        Listed segments without a pixel are dropped from the table. An id of the PNG that the JSON lacks
        stays in `ids` without a row in `segments`: what it is remains unknown.

        Raises:
            DataError: PNG missing or unreadable, not of the picture's size, or with none of the listed ids.
            ImageError: the picture is missing or damaged.
        """
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        image, ids, listed = self.image(index), self.ids(index), self.segments(index)
        if image.shape[:2] != ids.shape:
            raise DataError(
                f"{self.png_path(index)}: {ids.shape[1]}×{ids.shape[0]}, but the picture "
                f"{self.image_path(index)} is {image.shape[1]}×{image.shape[0]}; they must be of one size"
            )
        present = np.isin(listed.ids, present_ids(ids))
        return Sample(
            image,
            ids,
            _rows(listed, present),
            self.image_ids[index],
            self.file_names[index],
            self.info(index),
        )

    def image(self, index: int) -> NDArray[np.uint8]:
        """The picture, H×W×3 uint8 RGB, upright."""
        name = self.file_names[index]
        where = self.images.where(name)
        data = self.images.read(name)
        return read_image(data, max_pixels=self.max_pixels, white_level=self.white_level, name=where)

    def ids(self, index: int) -> NDArray[np.int32]:
        """The id map, H×W int32, 0 = void."""
        pixels = read_image(self.pngs.read(self._png_names[index]), name=self.png_path(index)).astype(
            np.int32
        )
        return pixels[..., 0] + 256 * pixels[..., 1] + 65536 * pixels[..., 2]

    def segments(self, index: int) -> SegmentTable:
        """The segments as the JSON lists them, those without pixels included."""
        end = int(self._ends[index])
        return _rows(self._columns, slice(end - int(self.segment_counts[index]), end))

    def info(self, index: int) -> dict[str, Any]:
        """All keys of the image's row but `id` and `file_name` (`width`, `height`, `image_type`, …)."""
        return self._info[index]

    def image_path(self, index: int) -> str:
        """What messages call the picture."""
        return self.images.where(self.file_names[index])

    def png_path(self, index: int) -> str:
        """What messages call the PNG."""
        return self.pngs.where(self._png_names[index])


def open_dataset(
    data: str | os.PathLike[str] | None,
    split: str | None = None,
    *,
    images: str | os.PathLike[str] | None = None,
    panoptic_json: str | os.PathLike[str] | None = None,
    panoptic_pngs: str | os.PathLike[str] | None = None,
    max_pixels: int = MAX_PIXELS,
    white_level: float | None = None,
) -> CocoPanoptic:
    """Open a split of a data set by its folder; see `find_layout` for the layouts that are recognised.

    Raises:
        DataError: what was looked for and not found, or what is wrong with the JSON.
    """
    layout = find_layout(data, split, images=images, panoptic_json=panoptic_json, panoptic_pngs=panoptic_pngs)
    return CocoPanoptic(
        layout.images,
        layout.panoptic_json,
        layout.panoptic_pngs,
        max_pixels=max_pixels,
        white_level=white_level,
    )


def present_ids(ids: NDArray[np.int32]) -> NDArray[np.int32]:
    """The ids that occur in a map of any shape, sorted, 0 included; quicker than sorting every pixel."""
    flat = ids.reshape(-1)
    starts = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    return np.unique(np.append(flat[starts], flat[:1]))


def _rows(table: SegmentTable, which: slice | NDArray[np.bool_]) -> SegmentTable:
    return SegmentTable(table.ids[which], table.labels[which], table.crowd[which], table.areas[which])
