"""`Sample`: one image with its panoptic annotation in memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(slots=True)
class SegmentTable:
    """The segments of one image, a column each, S rows in file order.

    Attributes:
        ids: (S,) int32, the value in the id map; never 0.
        labels: (S,) int64 in 0…C-1.
        crowd: (S,) bool.
        areas: (S,) int64 pixels as the annotation file states them; 0 where it does not.
    """

    ids: NDArray[np.int32]
    labels: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    areas: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(slots=True)
class Sample:
    """One image and its annotation.

    Attributes:
        image: H×W×C uint8, RGB where the model says nothing else.
        ids: H×W int32 segment ids, 0 = void; not necessarily contiguous.
        segments: the table behind `ids`.
        image_id: the id in the data set.
        file_name: the picture's name in the data set.
        info: all further keys of the image's row (`image_type`, …).
    """

    image: NDArray[np.uint8]
    ids: NDArray[np.int32]
    segments: SegmentTable
    image_id: int | str = 0
    file_name: str = ""
    info: dict[str, Any] = field(default_factory=dict)
