"""`CocoPanoptic`: a COCO panoptic data set as a sequence of `Sample`, compact and cheap to pickle."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..core.segments import Runs, SegmentTable
from ..errors import DataError
from ..io.images import MAX_PIXELS
from ..io.panoptic_json import PanopticFile, read_panoptic_json, read_panoptic_png
from ..io.sources import FileSource, leads_outside
from .dataset import DataWarning, PanopticDataset, Sample
from .layout import find_panoptic


class CocoPanoptic(PanopticDataset):
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
        DataError: a file or folder is missing, the JSON is no sound COCO panoptic file or has no annotation.

    Warns:
        DataWarning: images without annotation, segments without pixels, PNG ids that are not listed.
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
        layout = find_panoptic(None, images=images, panoptic_json=panoptic_json, panoptic_pngs=panoptic_pngs)
        self.path = Path(panoptic_json)
        self.images = FileSource(layout.images)
        self.pngs = FileSource(layout.panoptic_pngs)
        self.max_pixels = max_pixels
        self.white_level = white_level
        file = read_panoptic_json(self.path)
        self.categories = file.categories
        self.image_ids = file.image_ids
        self._png_names = file.png_names
        self._segments = file.segments
        self._offsets = file.offsets
        self.segment_counts = np.diff(file.offsets)
        self.file_names = self._join(file)
        self.unannotated = len(file.images) - len(self)
        self._warned: set[str] = set()
        if not len(self):
            raise DataError(
                f"{self.path}: no image has an annotation; there is nothing to train on or to evaluate with"
            )
        if self.unannotated:
            text = f"{self.unannotated} of {len(file.images)} images have no annotation and are skipped"
            warnings.warn(f"{self.path}: {text}", DataWarning, stacklevel=2)

    def _join(self, file: PanopticFile) -> list[str]:
        """File names in the order of the annotations; keeps the images' rows as text in that order."""
        place = {image.id: k for k, image in enumerate(file.images)}
        order = [place.get(image_id, -1) for image_id in self.image_ids]
        if -1 in order:
            raise DataError(f'{self.path}: the list "images" is missing or empty; it names the pictures')
        names = [file.images[k].file_name for k in order]
        for image_id, name, png in zip(self.image_ids, names, self._png_names):
            if leads_outside(name) or leads_outside(png):
                text = f'image {image_id}: file name "{png if leads_outside(png) else name}"'
                raise DataError(f"{self.path}: {text} is empty or leads out of its folder; put it right")
        rows = file.image_rows()
        self._info_text = b"".join(rows[k] for k in order)
        self._info_ends = np.cumsum([len(rows[k]) for k in order])
        return names

    def sample(self, index: int) -> Sample:
        """One image with its annotation.

        Listed segments without a pixel are dropped from the table. An id of the PNG that the JSON lacks
        stays in `ids` without a row in `segments`: what it is remains unknown.

        Raises:
            DataError: PNG missing or unreadable, not of the picture's size, or without any id that is listed.
            ImageError: the picture is missing or damaged.
        """
        image, ids, listed = self.image(index), self.ids(index), self.segments(index)
        if image.shape[:2] != ids.shape:
            raise DataError(
                f"{self.png_path(index)}: {ids.shape[1]}×{ids.shape[0]}, but the picture "
                f"{self.image_path(index)} is {image.shape[1]}×{image.shape[0]}; they must be of one size"
            )
        present = np.unique(Runs.of(ids).ids)
        here = np.isin(listed.ids, present)
        strange = np.setdiff1d(present[present > 0], listed.ids)
        if len(strange):
            text = f"{self.png_path(index)}: id {strange[0]} is not in the JSON"
            if not here.any():
                hint = reversed_channels_hint(strange, listed.ids)
                raise DataError(f"{text}, nor is any other of this PNG{hint or '; is it the right file?'}")
            self._warn("strange", f"{text}; what it is remains unknown")
        if not here.all():
            image_id = self.image_ids[index]
            self._warn("empty", f"image {image_id} lists segments without a pixel; they are skipped")
        return Sample(
            image, ids, _rows(listed, here), self.image_ids[index], self.file_names[index], self.info(index)
        )

    def _warn(self, kind: str, text: str) -> None:
        """Once a kind: `data check` lists them all."""
        if kind not in self._warned:
            self._warned.add(kind)
            warnings.warn(f"{text} (`maskconver data check` lists all)", DataWarning, stacklevel=3)

    def ids(self, index: int) -> NDArray[np.int32]:
        """The id map, H×W int32, 0 = void."""
        return read_panoptic_png(self.pngs.read(self._png_names[index]), self.png_path(index))

    def segments(self, index: int) -> SegmentTable:
        """The segments as the JSON lists them, those without pixels included."""
        index = range(len(self))[index]
        return _rows(self._segments, slice(int(self._offsets[index]), int(self._offsets[index + 1])))

    def info(self, index: int) -> dict[str, Any]:
        """All keys of the image's row but `id` and `file_name` (`width`, `height`, `image_type`, …)."""
        index = range(len(self))[index]
        start = int(self._info_ends[index - 1]) if index else 0
        row = msgspec.json.decode(self._info_text[start : int(self._info_ends[index])])
        return {key: value for key, value in row.items() if key not in ("id", "file_name")}

    def png_path(self, index: int) -> str:
        """What messages call the PNG."""
        return self.pngs.where(self._png_names[index])


def reversed_channels_hint(strange: NDArray[np.int32], listed: NDArray[np.int32]) -> str:
    """A half-sentence for messages when unknown ids would be known with R and B exchanged, else ""."""
    turned = (strange & 0xFF) << 16 | strange & 0xFF00 | strange >> 16
    fits = len(strange) > 0 and bool(np.isin(turned, listed).all())
    return "; with reversed channels they would fit: write the PNG as RGB, not BGR" if fits else ""


def _rows(table: SegmentTable, which: slice | NDArray[np.bool_]) -> SegmentTable:
    return SegmentTable(table.ids[which], table.labels[which], table.crowd[which], table.areas[which])
