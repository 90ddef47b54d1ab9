"""Id maps (H×W integers, 0 = void): areas, boxes and look-ups of all segments in one pass."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import DataError

TABLE = 1 << 25  # ids are looked up in a table of all up to the largest, which is below this


@dataclass(frozen=True, slots=True)
class Segment:
    """One row of a segmentation.

    Attributes:
        id: its value in the id map, 1 or more.
        label: 0…C-1.
        category_id, category: the id and name of that label in the data set.
        is_thing: a countable object, otherwise stuff.
        score: 0…1.
        area: pixels.
        bbox: (x, y, width, height) in pixels; all 0 for a segment without pixels.
    """

    id: int
    label: int
    category_id: int
    category: str
    is_thing: bool
    score: float
    area: int
    bbox: tuple[int, int, int, int]


@dataclass(slots=True)
class SegmentTable:
    """The segments of one image, a column each, S rows in file order.

    Attributes:
        ids: (S,) int32, the value in the id map; never 0.
        labels: (S,) int64 in 0…C-1.
        crowd: (S,) bool.
        areas: (S,) pixels as the annotation file states them, perhaps fractions; 0 where it does not.
    """

    ids: NDArray[np.int32]
    labels: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    areas: NDArray[np.float64] | NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, which: slice | NDArray[np.bool_]) -> SegmentTable:
        """Some of the rows; of a slice the columns are views."""
        return SegmentTable(self.ids[which], self.labels[which], self.crowd[which], self.areas[which])


def lookup(ids: NDArray[np.integer], keys: ArrayLike, values: ArrayLike, default: int) -> NDArray[np.int32]:
    """Replace every id (0 or more) by the value of its key; `default` where there is none."""
    keys, values = np.asarray(keys, np.int64), np.asarray(values, np.int32)
    if (top := int(ids.max(initial=0))) >= TABLE:
        numbers, inverse = np.unique(ids, return_inverse=True)
        there = np.isin(keys, numbers)
        found = np.full(len(numbers), default, np.int32)
        found[np.searchsorted(numbers, keys[there])] = values[there]
        return found[inverse].reshape(ids.shape)
    table = np.full(top + 1, default, np.int32)
    table[keys[keys <= top]] = values[keys <= top]
    return table[ids]


def let_go(array: NDArray[Any]) -> None:
    """Frees the memory that a file behind an array takes, if there is one; its values are read again."""
    file = getattr(array, "_mmap", None)
    if file is not None and hasattr(mmap, "MADV_DONTNEED"):
        file.madvise(mmap.MADV_DONTNEED)


def reversed_channels_hint(ids: NDArray[np.integer], listed: NDArray[np.integer]) -> str:
    """A half-sentence for messages where a PNG was written as BGR, else "".

    Args:
        ids: those of the map, of any integer type; 0 does not count.
        listed: those of the annotation, so that none of `ids` among them speaks against it.
    """
    strange = np.unique(ids).astype(np.int64)
    strange = strange[strange != 0]
    turned = (strange & 0xFF) << 16 | strange & 0xFF00 | strange >> 16
    fits = len(strange) > 0 and bool(np.isin(turned, listed).all()) and not np.isin(strange, listed).any()
    return "; with red and blue exchanged they would fit: write the PNG as RGB, not BGR" if fits else ""


def run_starts(*maps: NDArray[np.integer], width: int | None = None) -> NDArray[np.int64]:
    """Where a run of pixels begins that have one value in each map: the first pixel, and every change.

    Args:
        maps: (P,) each, of one length.
        width: a run ends with its row of so many pixels, too.

    Returns:
        (R,) int64 ascending; empty for empty maps.
    """
    size = maps[0].size
    flags = np.zeros(-(-size // 8) * 8, bool)
    begins = flags[:size]
    begins[:1] = True
    for i, values in enumerate(maps):
        if i == 0:
            np.not_equal(values[1:], values[:-1], out=begins[1:])
        else:
            begins[1:] |= values[1:] != values[:-1]
    if width:
        begins[::width] = True
    # Most flags are false: eight of them are looked at as one number first.
    words = flags.view(np.uint64)
    some = np.flatnonzero(words != 0)
    found = np.flatnonzero(words[some].view(bool))
    starts: NDArray[np.int64] = (some[found >> 3] << 3) | (found & 7)
    return starts


@dataclass(frozen=True, slots=True)
class Runs:
    """The id map cut into horizontal runs of one id, row by row: far fewer than pixels.

    Attributes:
        ids, y, x, length: (R,) of each run.
    """

    ids: NDArray[np.integer]
    y: NDArray[np.int64]
    x: NDArray[np.int64]
    length: NDArray[np.int64]

    @classmethod
    def of(cls, ids: NDArray[np.integer]) -> Runs:
        """All runs of an H×W id map, void included."""
        flat, width = ids.ravel(), ids.shape[1]
        starts = run_starts(flat, width=width)
        y, x = np.divmod(starts, max(width, 1))
        return cls(flat[starts], y, x, np.diff(starts, append=ids.size))


def measure(
    ids: NDArray[np.integer], segment_ids: NDArray[np.integer]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Area and box of every segment in one pass.

    Args:
        ids: H×W, 0 = void.
        segment_ids: (S,) the ids to measure; all non-zero ids of the map must be among them.

    Returns:
        (S,) int64 areas and (S, 4) int64 boxes (x, y, width, height); zeros for ids without pixels.

    Raises:
        DataError: an id of the map is not listed; an id is listed twice, or is not positive.
    """
    order = np.argsort(segment_ids, kind="stable")
    known = segment_ids[order]
    if len(known) and (known[0] < 1 or (np.diff(known) == 0).any()):
        raise DataError("segment ids must be positive and unique")
    runs = Runs.of(ids)
    where = np.searchsorted(known, runs.ids)
    found = np.append(known, -1)[where] == runs.ids
    if not (found | (runs.ids == 0)).all():
        stray = runs.ids[~found & (runs.ids != 0)][0]
        raise DataError(f"the map holds the segment id {stray}, which is not among the {len(known)} listed")
    segment = order[where[found]]
    y, x, length = runs.y[found], runs.x[found], runs.length[found]
    areas = np.zeros(len(known), np.int64)
    np.add.at(areas, segment, length)
    low = np.full((2, len(known)), max(ids.shape))
    high = np.zeros((2, len(known)), np.int64)
    for axis, (start, end) in enumerate(((x, x + length), (y, y + 1))):
        np.minimum.at(low[axis], segment, start)
        np.maximum.at(high[axis], segment, end)
    boxes = np.concatenate([low, high - low]).T
    boxes[areas == 0] = 0
    return areas, boxes
