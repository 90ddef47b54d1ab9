"""`CocoPanoptic`: a COCO panoptic data set as a sequence of `Sample`, compact and cheap to pickle."""

from __future__ import annotations

import os
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..core.segments import Runs, SegmentTable, reversed_channels_hint
from ..errors import DataError
from ..io.images import MAX_PIXELS
from ..io.panoptic_json import NO_IMAGES, PanopticFile, read_panoptic_json, read_panoptic_png
from ..io.sources import FileSource, name_fault
from .dataset import DataWarning, PanopticDataset, Sample
from .layout import DataPaths, find_panoptic

NO_ANNOTATION = "no image has an annotation; there is nothing to train on or to evaluate with"


class CocoPanoptic(PanopticDataset):
    """Images with COCO panoptic annotation, in the order of the file's `annotations`.

    The JSON is read once into flat columns; images and PNGs are read when a sample is asked for. Instances
    can be pickled to loader workers. Images without annotation are left out and counted.

    Args:
        images: folder or .zip of the images.
        panoptic_json: the COCO panoptic file.
        panoptic_pngs: folder or .zip of the PNGs; by default the one beside the JSON that has its name.
        max_pixels, white_level, channels, bits: as in `read_image`.

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
        channels: int = 3,
        bits: int = 8,
    ) -> None:
        self.path = Path(panoptic_json)
        if panoptic_pngs is None:
            paths = DataPaths.of(images=images, panoptic_json=panoptic_json)
            panoptic_pngs = find_panoptic(None, paths=paths).panoptic_pngs
        elif not self.path.is_file():
            raise DataError("no such file (the COCO panoptic JSON)", where=str(self.path))
        self.images = FileSource(images)
        self.pngs = FileSource(panoptic_pngs)
        self.max_pixels, self.white_level, self.channels = max_pixels, white_level, channels
        self.bits = bits
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
            raise DataError(NO_ANNOTATION, where=str(self.path))
        if self.unannotated:
            text = f"{self.unannotated} of {len(file.images)} images have no annotation and are skipped"
            warnings.warn(f"{self.path}: {text}", DataWarning, stacklevel=2)

    def _join(self, file: PanopticFile) -> list[str]:
        """File names in the order of the annotations; keeps the images' rows as text in that order."""
        require_images(file)
        place = {image.id: k for k, image in enumerate(file.images)}
        order = [place[image_id] for image_id in self.image_ids]
        names = [file.images[k].file_name for k in order]
        for image_id, name, png in zip(self.image_ids, names, self._png_names):
            for each in (name, png):
                if fault := name_fault(each):
                    text = f'image {image_id}: the file name "{each}" {fault}'
                    raise DataError(text, where=str(self.path))
        rows = file.image_rows()
        self._info_text = b"".join(rows[k] for k in order)
        self._info_ends = np.cumsum([len(rows[k]) for k in order])
        return names

    def sample(self, index: int) -> Sample:
        """One image with its annotation.

        Listed segments without a pixel are dropped from the table. An id of the PNG that the JSON lacks
        stays in `ids` without a row in `segments`: what it is remains unknown.

        Raises:
            DataError: PNG missing or unreadable, not of the image's size, or without any id that is listed.
            ImageError: the image is missing or damaged.
        """
        image, ids, listed = self.image(index), self.ids(index), self.segments(index)
        self.require_fit(index, image.shape, ids.shape)
        present = np.unique(Runs.of(ids).ids)
        here = np.isin(listed.ids, present)
        strange = np.setdiff1d(present[present > 0], listed.ids)
        if len(strange):
            text, where = f"id {strange[0]} is not in the JSON", self.png_path(index)
            if not here.any():
                hint = reversed_channels_hint(present, listed.ids) or "; is it the right file?"
                raise DataError(f"{text}, nor is any other of this PNG{hint}", where=where)
            self._warn("strange", f"{where}: {text}; what it is remains unknown")
        if not here.all():
            image_id = self.image_ids[index]
            self._warn("empty", f"image {image_id} lists segments without a pixel; they are skipped")
        return Sample(
            image, ids, listed[here], self.image_ids[index], self.file_names[index], self.info(index)
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
        return self._segments[slice(int(self._offsets[index]), int(self._offsets[index + 1]))]

    def info(self, index: int) -> dict[str, Any]:
        """All keys of the image's row but `id` and `file_name` (`width`, `height`, `image_type`, …)."""
        index = range(len(self))[index]
        start = int(self._info_ends[index - 1]) if index else 0
        row = msgspec.json.decode(self._info_text[start : int(self._info_ends[index])])
        return {key: value for key, value in row.items() if key not in ("id", "file_name")}

    @property
    def paths(self) -> DataPaths:
        """Where its files are."""
        return DataPaths.of(images=self.images.path, panoptic_json=self.path, panoptic_pngs=self.pngs.path)

    def _relabel(self, new: NDArray[np.int64]) -> None:
        self._segments = replace(self._segments, labels=new[self._segments.labels])

    def png_path(self, index: int) -> str:
        """What messages call the PNG."""
        return self.pngs.where(self._png_names[index])


def require_images(file: PanopticFile) -> None:
    """Refuses a file without the list `images`, as predictions may be.

    Raises:
        DataError: names the file.
    """
    if not file.images:
        raise DataError(NO_IMAGES, where=file.path)
