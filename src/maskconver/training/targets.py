"""One image's annotation to its targets (arXiv 2312.06052, section 3); runs in the loader's workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..core.segments import SegmentTable, run_starts

DILATION = 61  # three max pools of 21, stride 1: 30 px each way


def stuff_islands(
    mask: NDArray[np.bool_],
    k: int,
    dilation: Literal["2d", "reference", "none"] = "2d",
    *,
    min_area: int = 0,
) -> list[NDArray[np.bool_]]:
    """The k largest islands of a class mask, largest dilated size first.

    The mask is dilated, its 4-connected components are ordered by dilated size (equal sizes in row-major
    order of their first pixel), the first k are cut back to the mask, and what is left with fewer than
    `min_area` pixels is dropped without replacement.

    Args:
        mask: H×W bool.
        k: how many.
        dilation: see `TargetConfig.islands_dilation`.
        min_area: in pixels of the mask.

    Returns:
        At most k H×W bool masks.
    """
    if not mask.any():
        return []
    # Nothing happens farther from the class than the dilation reaches.
    window = grown(tight_window(mask), 0 if dilation == "none" else DILATION // 2)
    own = mask[window]
    dilated = own.astype(np.uint8)
    if dilation != "none":
        dilated = ndimage.maximum_filter1d(dilated, DILATION, axis=1, mode="constant")
    if dilation == "2d":
        dilated = ndimage.maximum_filter1d(dilated, DILATION, axis=0, mode="constant")
    components, count = ndimage.label(dilated)
    sizes = np.bincount(components.ravel(), minlength=count + 1)[1:]
    islands = []
    for index in np.argsort(-sizes, kind="stable")[:k]:
        island = np.zeros(mask.shape, bool)
        np.logical_and(own, components == 1 + index, out=island[window])
        if np.count_nonzero(island) >= min_area:
            islands.append(island)
    return islands


def tight_window(mask: NDArray[np.bool_]) -> tuple[slice, slice]:
    """The smallest window that holds all of a mask with at least one pixel."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def grown(window: tuple[slice, slice], reach: int) -> tuple[slice, slice]:
    """A window wider by `reach` pixels on every side; it may end beyond the array, as slices may."""
    y, x = (slice(max(s.start - reach, 0), s.stop + reach) for s in window)
    return y, x


@dataclass
class TargetConfig:
    """How the annotation becomes training targets. The published recipes set the reference's values.

    Attributes:
        center: where the centre of a thing is: the middle of its `box`, the mean of its `mask`'s pixels, or
            the middle of the `image`.
        stuff: centres of a stuff class: one for each of its largest `islands`, one for the whole class
            (`global`), or the middle of the `image`.
        islands: how many islands of a stuff class get a centre.
        islands_dilation: how far apart pixels still belong to one island: `2d` dilates by 30 px in both
            directions (the paper), `reference` along x only (the public code), `none` not at all.
        islands_min_area: islands with fewer pixels get no centre.
        island_mask: the mask that a stuff centre predicts: the whole `class` region or its `island`.
        max_segments: maximum number of mask targets per image; the heatmap always contains all segments.
        order: which segments are kept if there are more: the `largest`, or the first in `reference` order.
        ignore_void: leave void and crowd pixels out of all losses; if false they count as background, as
            in the reference.
        min_iou: overlap that determines the radius of a centre's Gaussian.
        gaussian: how the width of a centre's Gaussian is chosen: by `iou`, as published, or by the `size` of
            the box along each axis (ours): a small object then has more than one cell near 1.
    """

    center: Literal["box", "mask", "image"] = "box"
    stuff: Literal["islands", "global", "image"] = "islands"
    islands: int = 3
    islands_dilation: Literal["2d", "reference", "none"] = "2d"
    islands_min_area: int = 0
    island_mask: Literal["class", "island"] = "class"
    max_segments: int = 100
    order: Literal["largest", "reference"] = "largest"
    ignore_void: bool = True
    min_iou: float = 0.7
    gaussian: Literal["iou", "size"] = "iou"


@dataclass(slots=True)
class ImageTargets:
    """The targets of one image; n rows, things before stuff.

    Attributes:
        regions: H×W int32 map of mask targets; 0 belongs to none. Several rows may share a region.
        valid: H×W bool; pixels that count in the losses.
        labels: (n,) int64.
        region: (n,) int64, the row's value in `regions`.
        boxes: (n, 4) float32 `(ymin, xmin, ymax, xmax)`, inclusive pixel indices.
        centers: (n, 2) float32 `(y, x)` in pixels.
        keep: (n,) bool; false for rows beyond the cap, which are drawn on the heatmap only.
    """

    regions: NDArray[np.int32]
    valid: NDArray[np.bool_]
    labels: NDArray[np.int64]
    region: NDArray[np.int64]
    boxes: NDArray[np.float32]
    centers: NDArray[np.float32]
    keep: NDArray[np.bool_]


def assign_targets(
    ids: NDArray[np.int32],
    segments: SegmentTable,
    is_thing: NDArray[np.bool_],
    *,
    config: TargetConfig,
    inside: NDArray[np.bool_] | None = None,
) -> ImageTargets:
    """Turns an id map and its segment table into targets.

    Crowd segments have no target. Stuff of one class is one region whatever number of segments it has.
    Segments without a pixel (cut away by a crop) are left out.

    Args:
        ids: H×W int32 segment ids on the training canvas, 0 = void.
        segments: the table behind `ids`; ids it lacks count as void.
        is_thing: (C,) bool by label.
        config: the choices.
        inside: H×W bool, false on padding; None for an image without padding.
    """
    valid = np.ones(ids.shape, bool) if inside is None else inside.copy()
    regions, first, labels = _regions(ids, segments, is_thing)
    if config.ignore_void:
        valid &= regions > 0
    things = is_thing[labels]
    boxes_of = ndimage.find_objects(regions, max_label=len(labels))
    height, width = ids.shape if inside is None else _extent(inside)
    image_center = ((height - 1) / 2, (width - 1) / 2)

    rows: list[tuple[int, int, tuple[float, ...], tuple[float, float]]] = []  # label, region, box, centre
    order = np.argsort(first, kind="stable")
    for index in (*order[things[order]], *order[~things[order]]):
        label, region = int(labels[index]), int(index) + 1
        window = boxes_of[index]
        where = config.center if things[index] else ("box" if config.stuff == "islands" else config.stuff)
        if where == "image":
            rows.append((label, region, _box(window), image_center))
        elif things[index] or config.stuff == "global":
            rows.append(
                (label, region, _box(window), _center(regions[window] == region, window, config.center))
            )
        else:
            islands = stuff_islands(
                regions == region, config.islands, config.islands_dilation, min_area=config.islands_min_area
            )
            for number, island in enumerate(islands):
                window = tight_window(island)
                own = region
                if config.island_mask == "island" and number:
                    own = int(regions.max()) + 1
                    regions[island] = own
                rows.append((label, own, _box(window), _center(island[window], window, config.center)))
            if config.island_mask == "island":
                _drop_rest(regions, region, islands)
    return _table(rows, regions, valid, config)


def _regions(
    ids: NDArray[np.int32], segments: SegmentTable, is_thing: NDArray[np.bool_]
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]:
    """Region map 1…n (things: a segment each; stuff: a class each), first pixel and label of each region."""
    # Ids come in runs along the rows: what sorting there is sorts runs, not pixels.
    flat = ids.ravel()
    starts = run_starts(flat)
    present, first, inverse = np.unique(flat[starts], return_index=True, return_inverse=True)
    first = starts[first]
    usable = ~segments.crowd
    table_ids, table_labels = segments.ids[usable], segments.labels[usable]
    sorter = np.argsort(table_ids)
    slot = np.searchsorted(table_ids, present, sorter=sorter).clip(max=max(len(table_ids) - 1, 0))
    if len(table_ids):
        row = sorter[slot]
        known = (table_ids[row] == present) & (present != 0)
        label = np.where(known, table_labels[row], -1)
    else:
        known, label = np.zeros(len(present), bool), np.full(len(present), -1)
    # A thing is keyed by its id, stuff by its class; negative keys cannot meet ids.
    key = np.where(is_thing[label] & known, present.astype(np.int64), -1 - label)
    keys, region_of = np.unique(key[known], return_inverse=True)
    lookup = np.zeros(len(present), np.int32)
    lookup[known] = region_of + 1
    firsts = np.full(len(keys), ids.size, np.int64)
    np.minimum.at(firsts, region_of, first[known])
    labels = np.zeros(len(keys), np.int64)
    labels[region_of] = label[known]
    regions = np.repeat(lookup[inverse], np.diff(starts, append=flat.size))
    return regions.reshape(ids.shape), firsts, labels


def _box(window: tuple[slice, slice]) -> tuple[float, float, float, float]:
    y, x = window
    return y.start, x.start, y.stop - 1, x.stop - 1


def _center(mask: NDArray[np.bool_], window: tuple[slice, slice], kind: str) -> tuple[float, float]:
    if kind == "mask":
        y, x = np.nonzero(mask)
        return float(y.mean()) + window[0].start, float(x.mean()) + window[1].start
    ymin, xmin, ymax, xmax = _box(window)
    return (ymin + ymax) / 2, (xmin + xmax) / 2


def _extent(inside: NDArray[np.bool_]) -> tuple[int, int]:
    return int(inside.any(1).sum()), int(inside.any(0).sum())


def _drop_rest(regions: NDArray[np.int32], region: int, islands: list[NDArray[np.bool_]]) -> None:
    """With island masks the first island keeps the class's region; pixels of no chosen island have none."""
    rest = regions == region
    if islands:
        rest &= ~islands[0]
    regions[rest] = 0


def _table(
    rows: list[tuple[int, int, tuple[float, ...], tuple[float, float]]],
    regions: NDArray[np.int32],
    valid: NDArray[np.bool_],
    config: TargetConfig,
) -> ImageTargets:
    n = len(rows)
    region = np.array([r[1] for r in rows], np.int64)
    keep = np.ones(n, bool)
    if n > config.max_segments:
        ranked = np.arange(n)
        if config.order == "largest":
            ranked = np.argsort(-np.bincount(regions.ravel(), minlength=n + 1)[region], kind="stable")
        keep[:] = False
        keep[ranked[: config.max_segments]] = True
    return ImageTargets(
        regions,
        valid,
        np.array([r[0] for r in rows], np.int64),
        region,
        np.array([r[2] for r in rows], np.float32).reshape(n, 4),
        np.array([r[3] for r in rows], np.float32).reshape(n, 2),
        keep,
    )
