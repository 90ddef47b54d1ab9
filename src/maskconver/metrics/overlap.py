"""The joint histogram of two id maps, from which every metric of this package is computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..core.categories import Categories
from ..core.segments import SegmentTable, reversed_channels_hint, run_starts
from ..errors import DataError

HASH_BITS = 12


class Counts:
    """Sums over images, a row a label.

    Args:
        categories: the label set, C of them.
        columns: what is summed for each label.
        dtype: int64, or float64 where fractions are summed.
    """

    def __init__(self, categories: Categories, columns: int, dtype: type = np.int64) -> None:
        self.categories = categories
        self._counts: NDArray[Any] = np.zeros((len(categories), columns), dtype)

    def reset(self) -> None:
        """Forget all images."""
        self._counts[:] = 0

    @property
    def state(self) -> NDArray[Any]:
        """(C, columns), see the class; states of several processes are added up."""
        return self._counts.copy()

    def merge_state(self, state: NDArray[Any]) -> None:
        """Add the state of another process or part.

        Raises:
            DataError: the state is of another label set.
        """
        if np.shape(state) != self._counts.shape:
            raise DataError(
                f"a state of shape {np.shape(state)} does not fit {len(self.categories)} categories"
            )
        self._counts += state


Segments = SegmentTable | Sequence[Any] | tuple[ArrayLike, ArrayLike]
"""The segments of an image as metrics take them: a `SegmentTable`; a sequence of `Segment` (or anything with
`id` and `label`) or of COCO rows (mappings with `id` and `category_id`); a pair of arrays `(ids, labels)`."""


def segment_table(segments: Segments, categories: Categories) -> SegmentTable:
    """Bring the segments of an image into the one form that metrics work on.

    Args:
        segments: any of the forms of `Segments`; rows may carry `iscrowd` and `area`.
        categories: the label set; COCO rows name categories by id.

    Raises:
        DataError: a category is unknown, or the rows are of another kind.
    """
    if isinstance(segments, SegmentTable):
        return segments
    if isinstance(segments, tuple) and len(segments) == 2 and isinstance(segments[0], Sequence | np.ndarray):
        ids, labels = (np.asarray(column, np.int64) for column in segments)
        return _table(ids, labels, np.zeros(len(ids), bool), np.zeros(len(ids)))
    rows: list[tuple[int, int, int, float]] = []
    segment: Any
    for segment in segments:
        try:
            if isinstance(segment, Mapping):
                label = categories.label(segment["category_id"])
                rows.append((segment["id"], label, segment.get("iscrowd") or 0, segment.get("area") or 0))
            else:
                rows.append((segment.id, segment.label, 0, 0))
        except (KeyError, AttributeError):
            raise DataError(
                f"a segment is a row with id and label, or with id and category_id; got {segment!r:.80}"
            ) from None
    columns = np.array(rows, np.float64).reshape(-1, 4)
    ids, labels = columns[:, 0].astype(np.int64), columns[:, 1].astype(np.int64)
    return _table(ids, labels, columns[:, 2] != 0, columns[:, 3])


def _table(
    ids: NDArray[np.int64], labels: NDArray[np.int64], crowd: NDArray[np.bool_], areas: NDArray[np.float64]
) -> SegmentTable:
    if ids.ndim != 1 or ids.shape != labels.shape:
        raise DataError(
            f"segment ids and labels must be two lists of the same length, not {ids.shape} and {labels.shape}"
        )
    if len(ids) and ids.max() > np.iinfo(np.int32).max:
        raise DataError(f"segment id {ids.max()} is too large; ids are below 2³¹")
    return SegmentTable(ids.astype(np.int32), labels, crowd, areas)


@dataclass(slots=True)
class Overlap:
    """How many pixels each predicted segment shares with each segment of the ground truth, in one image.

    Attributes:
        pred: the P predicted segments.
        gt: the G segments of the ground truth.
        joint: (G+2, P+1) int64 pixels. Rows: the segments of `gt`, void, ids that `gt` does not list.
            Columns: the segments of `pred`, void.
        image: what messages and details call the image.
    """

    pred: SegmentTable
    gt: SegmentTable
    joint: NDArray[np.int64]
    image: int | str | None = None

    @classmethod
    def of(
        cls,
        pred_ids: ArrayLike,
        pred_segments: Segments,
        gt_ids: ArrayLike,
        gt_segments: Segments,
        *,
        categories: Categories,
        image: int | str | None = None,
    ) -> Overlap:
        """Count, after checking that the prediction agrees with itself.

        Args:
            pred_ids: (H, W) integers, 0 = void.
            pred_segments: a row for every id of `pred_ids`.
            gt_ids: (H, W) integers, 0 = void.
            gt_segments: its rows. Ids of the map that have no row are neither void nor any segment; rows
                without pixels are segments nobody can find.
            categories: the label set of both.
            image: what messages call the image.

        Raises:
            DataError: the sizes differ; the map of the prediction holds an id without a row, or has no pixel
                of one; an id occurs twice or is not positive; a label does not exist.
        """
        pred, gt = segment_table(pred_segments, categories), segment_table(gt_segments, categories)
        where = "" if image is None else f"image {image}: "
        pred_map, gt_map = _map(pred_ids, where + "prediction"), _map(gt_ids, where + "ground truth")
        if pred_map.shape != gt_map.shape:
            sizes = [f"{m.shape[1]}×{m.shape[0]}" for m in (pred_map, gt_map)]
            raise DataError(f"{where}the prediction is {sizes[0]} pixels, the ground truth {sizes[1]}")
        pred_flat, gt_flat = pred_map.ravel(), gt_map.ravel()
        starts = run_starts(pred_flat, gt_flat)  # far fewer than pixels
        p, g = pred_flat.take(starts, mode="clip"), gt_flat.take(starts, mode="clip")
        lengths = np.empty_like(starts)
        lengths[:-1], lengths[-1:] = starts[1:], gt_flat.size
        lengths -= starts
        width, height = len(pred) + 1, len(gt) + 2
        columns = _positions(p, pred, len(categories), where + "prediction", None)
        rows = _positions(g, gt, len(categories), where + "ground truth", len(gt) + 1)
        # Weights make bincount return floats; counts of pixels are exact in them.
        joint = np.bincount(rows * width + columns, lengths, height * width).astype(np.int64)
        overlap = cls(pred, gt, joint.reshape(height, width), image)
        there = np.asarray(overlap.joint.any(0))[:-1]
        if not there.all():
            raise DataError(
                f"{where}the prediction lists segment {pred.ids[~there][0]}, which has no pixel in its map"
            )
        return overlap


def _map(ids: ArrayLike, what: str) -> NDArray[np.integer]:
    array = np.asarray(ids)
    if array.ndim != 2 or array.dtype.kind not in "iu":
        raise DataError(f"{what}: an id map is H×W integers, not {array.dtype} of shape {array.shape}")
    return array


def _positions(
    ids: NDArray[np.integer], table: SegmentTable, classes: int, what: str, unlisted: int | None
) -> NDArray[np.int64]:
    """The row of `table` of each id; its length for 0, `unlisted` (or an error) for an id that has no row."""
    if len(table) and table.ids.min() < 1:
        raise DataError(f"{what}: segment id {table.ids.min()} is not possible; ids begin at 1, 0 is void")
    rows = np.arange(len(table) + 1)
    known = np.zeros(len(rows), table.ids.dtype)
    known[:-1] = table.ids
    # The row of an id stands where its hash says, unless two ids share one: much faster than searching.
    slots = _hash(known)
    places = np.zeros(1 << HASH_BITS, np.intp)
    places[slots] = rows
    if (places[slots] == rows).all():
        positions: NDArray[np.int64] = places.take(_hash(ids), mode="clip")  # not checked, nor needed
    else:
        order = np.argsort(known, kind="stable")
        ascending = known[order]
        if (ascending[1:] == ascending[:-1]).any():
            twice = ascending[1:][ascending[1:] == ascending[:-1]][0]
            raise DataError(f"{what}: segment id {twice} is listed twice; ids must be unique in an image")
        positions = order[np.minimum(np.searchsorted(ascending, ids), len(table))]
    if len(table):
        low, high = int(table.labels.min()), int(table.labels.max())
        if low < 0 or high >= classes:
            raise DataError(f"{what}: labels {low}…{high} do not fit 0…{classes - 1}")
    strange = known.take(positions, mode="clip") != ids
    if strange.any():
        stray = ids[strange]
        hint = reversed_channels_hint(ids, table.ids)
        if hint or unlisted is None:
            raise DataError(f"{what}: the map holds id {stray[0]}, which is not listed{hint}")
        positions[strange] = unlisted
    return positions


def _hash(ids: NDArray[np.integer]) -> NDArray[np.uint32]:
    """A number of `HASH_BITS` bits for each id, by Knuth's multiplication."""
    return (ids.astype(np.uint32) * np.uint32(2654435761)) >> np.uint32(32 - HASH_BITS)
