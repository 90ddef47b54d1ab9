"""Shapes to an id map: polygons and masks drawn on one another, the small ones on top or as asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ...core import rle
from ...core.files import MAX_PIXELS
from ...core.segments import lookup
from ...errors import DataError
from .annotation import Edges, Faults, IdSegment, Overlaps, Shape

_ROUNDING = 0.01  # pixels that six digits of a relative coordinate may be off
_BAND = 1 << 20  # pixels that are filled at a time, for which eight bytes are taken
_FAR = 1e7  # coordinates are drawn as if they were no farther away


@dataclass(slots=True, eq=False)
class Region:
    """The pixels of a shape: `mask` (h, w) bool with its upper left corner at (x, y) inside the image."""

    shape: Shape
    mask: NDArray[np.bool_]
    x: int
    y: int
    area: int


@dataclass(slots=True, eq=False)
class Drawn:
    """What was drawn.

    Attributes:
        ids: (H, W) int32, 0 = void.
        segments: those with pixels, numbered from 1 in file order.
        lost: pixels by class that another segment was drawn over.
    """

    ids: NDArray[np.int32]
    segments: list[IdSegment]
    lost: Counter[str]


def region_of(
    shape: Shape,
    size: tuple[int, int],
    edges: Edges = "touched",
    *,
    note: Callable[[str], None] | None = None,
) -> Region:
    """The pixels of a shape, as far as they lie in the image.

    Args:
        shape: what an annotation describes.
        size: height and width of the image.
        edges: the pixels of a polygon: all that it touches, as Pillow draws it (x and y of a point are then
            a pixel's number), or those whose centre (at + 0.5) lies inside. Both are the latter for outlines
            that run along the borders of pixels.
        note: called with a kind of what was noticed: `clipped-shapes`, `self-crossing-polygons`.

    Raises:
        DataError: broken run lengths, or of an image of another size; relative coordinates.
    """
    note = note or (lambda kind: None)
    if shape.rle is not None:
        mask = rle.decode(shape.rle)
        if mask.shape != size:
            what = f"run lengths of an image of {mask.shape[1]}×{mask.shape[0]}, not {size[1]}×{size[0]}"
            raise DataError(what, kind="size-mismatch")
        return _cropped(shape, mask, 0, 0)
    if shape.mask is not None:
        return _placed(shape, size, note)
    return _drawn(shape, size, edges, note)


def rasterize(
    shapes: Sequence[Shape],
    size: tuple[int, int],
    faults: Faults,
    where: str,
    *,
    overlaps: Overlaps = "small-on-top",
    stuff: frozenset[str] = frozenset(),
    edges: Edges = "touched",
) -> Drawn:
    """Draw the shapes of an image.

    Args:
        shapes: in file order.
        size: height and width in pixels.
        faults: takes shapes that cannot be drawn, and counts what is noticed.
        where: what messages call the annotation.
        overlaps: which of two shapes a pixel belongs to: the smaller, the later in the file, that of the
            higher score; or `fail`.
        stuff: classes of which an image has one segment.
        edges: as in `region_of`.

    Raises:
        DataError: `overlap`, if they must not; `too-large`, an image of more than `MAX_PIXELS`.
    """
    if size[0] * size[1] > MAX_PIXELS:
        raise DataError(f"{size[1]}×{size[0]} pixels are more than {MAX_PIXELS}", kind="too-large")
    regions: list[Region] = []
    widths: list[int] = []
    for number, shape in enumerate(shapes, 1):
        try:
            region = region_of(shape, size, edges, note=faults.note)
        except DataError as error:
            faults.add(error.kind or "bad-shape", f"{where}, {shape.entry or f'shape {number}'}", error.what)
            continue
        if region.area:
            widths.append(region.mask.shape[1])  # all are kept until their order is known: as bits
            regions.append(replace(region, mask=np.packbits(region.mask, axis=1).view(np.bool_)))
        else:
            faults.note("shapes-without-pixels")
    keys: dict[Hashable, int] = {}  # of segments, from 1 in file order
    numbers = [keys.setdefault(_segment_key(r.shape, i, stuff), len(keys) + 1) for i, r in enumerate(regions)]
    grouped = [number for region, number in zip(regions, numbers) if region.shape.group is not None]
    faults.note("shapes-joined-by-their-group", len(grouped) - len(set(grouped)))
    names = [""] * (len(keys) + 1)
    crowd = np.zeros(len(keys) + 1, bool)
    for region, number in zip(regions, numbers):
        names[number], crowd[number] = region.shape.name, region.shape.crowd
    ids = np.zeros(size, np.int32)
    lost: Counter[str] = Counter()
    for i in _order(regions, numbers, overlaps):
        region, number = regions[i], numbers[i]
        mask = np.unpackbits(region.mask.view(np.uint8), axis=1, count=widths[i]).view(np.bool_)
        here = ids[region.y : region.y + len(mask), region.x : region.x + widths[i]]
        covered = here[mask]
        covered = covered[(covered != 0) & (covered != number)]
        if covered.size:
            counts = np.bincount(covered)
            for other in np.flatnonzero(counts).tolist():
                lost[names[other]] += int(counts[other])
                if overlaps == "fail":
                    one, two = (
                        regions[numbers.index(n)].shape.entry or f"shape {n}" for n in (other, number)
                    )
                    what = f"{one} ({names[other]}) and {two} ({names[number]}) share {counts[other]} pixels"
                    fix = "choose a rule with `overlaps`"
                    raise DataError(what, where=where, fix=fix, kind="overlap")
        here[mask] = number
    left = np.unique(ids)
    left = left[left > 0]
    faults.note("hidden-segments", len(keys) - len(left))
    if len(left) < len(keys):
        ids = lookup(ids, left, np.arange(1, len(left) + 1), 0)
    segments = [IdSegment(k, names[old], bool(crowd[old])) for k, old in enumerate(left.tolist(), 1)]
    return Drawn(ids, segments, lost)


def _segment_key(shape: Shape, index: int, stuff: frozenset[str]) -> Hashable:
    if shape.name in stuff:
        return (shape.name,)
    return (shape.name, index) if shape.group is None else (shape.name, "group", shape.group)


def _order(regions: list[Region], numbers: list[int], overlaps: Overlaps) -> list[int]:
    """Positions of the regions, the lowest first. Parts of a group lie at one height; crowds lie below."""
    stated = all(r.shape.area is not None for r in regions)
    areas = [float((r.shape.area if stated else r.area) or 0) for r in regions]
    whole: dict[int, float] = {}
    for number, area in zip(numbers, areas):
        whole[number] = whole.get(number, 0) + area

    def height(i: int) -> tuple[float, ...]:
        region = regions[i]
        low = (region.shape.layer, not region.shape.crowd)
        if overlaps == "score":
            return (*low, region.shape.score or 0.0)
        if overlaps == "order":
            return low
        return (*low, -(areas[i] if region.shape.group is None else whole[numbers[i]]))

    return sorted(range(len(regions)), key=height)


def _cropped(shape: Shape, mask: NDArray[np.bool_], x: int, y: int) -> Region:
    """A region of the part of a mask that is not empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return Region(shape, mask[:0, :0], 0, 0, 0)
    top, left = int(rows[0]), int(columns[0])
    mask = mask[top : rows[-1] + 1, left : columns[-1] + 1]
    return Region(shape, mask, x + left, y + top, int(np.count_nonzero(mask)))


def _placed(shape: Shape, size: tuple[int, int], note: Callable[[str], None]) -> Region:
    assert shape.mask is not None
    x, y = shape.offset
    left, top = max(-x, 0), max(-y, 0)
    mask = shape.mask[top : max(size[0] - y, 0), left : max(size[1] - x, 0)]
    if mask.shape != shape.mask.shape and int(np.count_nonzero(mask)) < int(np.count_nonzero(shape.mask)):
        note("clipped-shapes")
    return _cropped(shape, mask, x + left, y + top)


def _drawn(shape: Shape, size: tuple[int, int], edges: Edges, note: Callable[[str], None]) -> Region:
    assert shape.polygons is not None
    points = np.concatenate(shape.polygons) if shape.polygons else np.zeros((0, 2))
    if not len(points):
        return Region(shape, np.zeros((0, 0), bool), 0, 0, 0)
    low, high = points.min(0), points.max(0)
    inside = not shape.relative and low.min() >= 0 and high.max() <= 1
    if inside and (points != np.floor(points)).any():
        raise DataError("all coordinates are from 0 to 1; they must be pixels", kind="bad-polygon")
    if (low < -1).any() or high[0] > size[1] + 1 or high[1] > size[0] + 1:
        note("clipped-shapes")
    x, y = (int(np.clip(np.floor(v), 0, s)) for v, s in zip(low, size[::-1]))
    right, bottom = (int(np.clip(np.ceil(v) + 1, 0, s)) for v, s in zip(high, size[::-1]))
    height, width = max(bottom - y, 0), max(right - x, 0)
    whole = np.zeros((height, width), bool)
    if not whole.size:
        return Region(shape, whole, 0, 0, 0)
    for polygon in shape.polygons:
        here = np.clip(polygon, -_FAR, _FAR) - (x, y)
        borders = np.round(here)
        if _is_along_pixels(here, borders):
            mask = _fill_centers(borders, height, width)
        elif edges == "centers":
            mask = _fill_centers(here, height, width)
        else:
            mask = _fill(here, height, width)
        whole = whole ^ mask if shape.rule == "even-odd" else whole | mask
        if _crosses_itself(here, mask):
            note("self-crossing-polygons")
    return _cropped(shape, whole, x, y)


def _next(polygon: NDArray[np.float64]) -> NDArray[np.float64]:
    """The point that follows each; np.roll takes ten times as long."""
    return np.concatenate([polygon[1:], polygon[:1]])


def _is_along_pixels(polygon: NDArray[np.float64], rounded: NDArray[np.float64]) -> bool:
    """Whether an outline runs on the borders of pixels alone, as those made from masks and most boxes do."""
    straight = (rounded == _next(rounded)).any(1).all()
    return bool(straight and (np.abs(polygon - rounded) < _ROUNDING).all())


def _fill(polygon: NDArray[np.float64], height: int, width: int) -> NDArray[np.bool_]:
    """As Pillow draws it: the inside by the even-odd rule, and every pixel on the outline."""
    image = Image.new("L", (width, height))
    ImageDraw.Draw(image).polygon([(x, y) for x, y in polygon.tolist()], fill=1)
    return np.asarray(image).view(bool)


def _fill_centers(polygon: NDArray[np.float64], height: int, width: int) -> NDArray[np.bool_]:
    """Pixels whose centre lies inside by the even-odd rule: an edge flips all pixels to the right of it."""
    one, two = polygon, _next(polygon)
    down = (one[:, 1] <= two[:, 1])[:, None]
    upper, lower = np.where(down, one, two), np.where(down, two, one)
    first, end = (np.clip(np.ceil(p[:, 1] - 0.5), 0, height).astype(np.int64) for p in (upper, lower))
    count = end - first  # rows whose middle an edge crosses
    edge = np.repeat(np.arange(len(polygon)), count)
    rows = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count - first, count)
    slope = (lower - upper)[edge]
    x = upper[edge, 0] + (rows + 0.5 - upper[edge, 1]) * slope[:, 0] / slope[:, 1]
    columns = np.clip(np.ceil(x - 0.5), 0, width).astype(np.int64)
    inside = np.empty((height, width), bool)
    step = max(_BAND // (width + 1), 1)
    order = np.argsort(rows, kind="stable")
    cuts = np.searchsorted(rows[order], np.arange(0, height + step, step))
    for top, (start, stop) in zip(range(0, height, step), pairwise(cuts)):
        some, deep = order[start:stop], min(step, height - top)
        flips = np.bincount((rows[some] - top) * (width + 1) + columns[some], minlength=deep * (width + 1))
        parity = np.cumsum(flips.reshape(deep, width + 1)[:, :width], 1, dtype=np.uint8) & 1
        inside[top : top + deep] = parity.view(bool)
    return inside


def _crosses_itself(polygon: NDArray[np.float64], mask: NDArray[np.bool_]) -> bool:
    """Whether the area by the formula differs from the pixels by more than its outline explains."""
    if (polygon < -1).any() or (polygon > np.array(mask.shape[::-1]) + 1).any():
        return False  # of a clipped polygon not all pixels are here
    following = _next(polygon)
    (x, y), (next_x, next_y) = polygon.T, following.T
    formula = abs(float(np.dot(x, next_y) - np.dot(y, next_x))) / 2
    outline = float(np.hypot(next_x - x, next_y - y).sum())
    return abs(int(np.count_nonzero(mask)) - formula) > outline + 4
