"""`CanvasMap`: the answer of a file that has the merge inside, on its canvas; and its way to the picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..core.categories import Categories
from ..core.config import InputConfig
from ..core.preprocess import scaled_size
from ..core.proposals import Geometry
from ..core.resize import resize_nearest
from ..core.segmentation import Segmentation
from ..core.segments import lookup
from ..errors import MaskconverError


@dataclass(frozen=True, slots=True)
class CanvasMap:
    """The panoptic map of one canvas, padding and all.

    Attributes:
        ids: H×W int32, 0 = void.
        segments: (N, 3) int32, in each row id, label and area of a segment, best first; then (0, -1, 0).
        scores: (N,) float32 of the segments, then 0.
    """

    ids: NDArray[np.int32]
    segments: NDArray[np.int32]
    scores: NDArray[np.float32]

    def segmentation(
        self,
        geometry: Geometry,
        config: InputConfig,
        categories: Categories,
        *,
        image: bool = True,
        side: int | None = None,
    ) -> Segmentation:
        """The map cut to the picture and brought to its size, each pixel from the nearest of the canvas.

        Segments of which nothing is left are dropped; the others are numbered 1…S again.

        Args:
            geometry: how the canvas lies on the picture.
            config: the file's input.
            categories: the label set.
            image: false leaves the map on the canvas as it is.
            side: longer side of the answer in pixels, the picture's own if left out.

        Raises:
            MaskconverError: a segment that is not listed, or of a label that does not exist.
        """
        ids = self.ids
        if image:
            height, width = scaled_size(geometry.image_size, config)
            ids = resize_nearest(ids[:height, :width], geometry.of_side(side).image_size)
        listed = self.segments[:, 0][self.segments[:, 0] > 0]
        there = np.unique(ids)
        labels = self.segments[: len(listed), 1]
        if not np.isin(there[there != 0], listed).all() or np.any((labels < 0) | (labels >= len(categories))):
            raise MaskconverError("the file's map and its table of segments do not agree; export it again")
        kept = np.isin(listed, there)
        numbered = lookup(ids, listed[kept], np.arange(1, kept.sum() + 1), 0)
        rows = np.flatnonzero(kept)
        return Segmentation.from_ids(numbered, categories, labels=labels[rows], scores=self.scores[rows])
