"""Where the tiles of a large image lie, and how their results become one.

Tiles overlap; their cores, which meet in the middle of each overlap, cover the image exactly once. A tile
gives the objects whose box is centred in its core, whole, wherever they reach. So an object that is smaller
than the overlap comes from one tile that sees all of it. An object that no tile sees whole is joined: each
core gives its own part, and parts that agree where two tiles overlap become one. Stuff comes from the cores,
one segment per class.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray

from ..core.categories import Categories
from ..core.segmentation import Segmentation
from ..core.segments import Segment, let_go, measure
from ..errors import ConfigError, MaskconverError

MOST_TILES = 1_000_000
MEMORY_BYTES = 1 << 30  # larger id maps lie in a temporary file
BAND_PIXELS = 1 << 22  # of the id map that are worked on at a time
AGREE = 0.5  # share of an object that another tile must see as one object, too
SLACK = 8  # an object centred up to 1 / SLACK of the overlap outside the core is given if nobody gave it
Window = tuple[slice, slice]
"""Rows and columns of an image."""


@dataclass(frozen=True, slots=True)
class Tile:
    """One tile in pixels of the image: the window that the network sees, and the core in it."""

    window: Window
    core: Window


@dataclass(frozen=True, slots=True)
class Tiling:
    """Where the tiles of an image lie.

    Attributes:
        size: (height, width) of the image.
        tile: longer side of a window in pixels, at most.
        overlap: pixels that neighbours share, at least.
        rows, columns: (window start, window stop, core start, core stop) along each axis.
    """

    size: tuple[int, int]
    tile: int
    overlap: int
    rows: list[tuple[int, int, int, int]]
    columns: list[tuple[int, int, int, int]]

    @classmethod
    def of(
        cls, size: tuple[int, int], tile: int, overlap: int, *, align: int = 1, even: bool = False
    ) -> Tiling:
        """Cover an image.

        Args:
            size: (height, width) of the image.
            tile: side of a window.
            overlap: pixels that neighbouring windows share.
            align: windows begin at multiples of this, so that the network's cells lie alike in each.
            even: windows are only as large as so many need to be. An image slightly larger than one window
                then takes four small ones, and not four of which the last hold little that is new.

        Raises:
            ConfigError: no such tiling, or one of more than a million tiles.
        """
        if tile < align:
            raise ConfigError(
                f"`tile={tile}` is smaller than the network's multiple of {align}; take a larger one"
            )
        if not 0 <= overlap <= tile - align:
            raise ConfigError(
                f"`overlap={overlap}` must be at least 0 and {align} smaller than the tile, which is {tile}"
            )
        count = [_count(n, tile, overlap, align) for n in size]
        if count[0] * count[1] > MOST_TILES:
            raise ConfigError(
                f"{size[1]}×{size[0]} pixels in tiles of {tile} are {count[0] * count[1]} tiles, more than "
                f"{MOST_TILES}; take larger ones or a smaller overlap"
            )
        sides = [_least(n, tile, overlap, align) if even else tile for n in size]
        return cls(size, tile, overlap, *(_spans(n, side, overlap, align) for n, side in zip(size, sides)))

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    def __iter__(self) -> Iterator[Tile]:
        """Row by row."""
        for top, bottom, above, below in self.rows:
            for left, right, west, east in self.columns:
                yield Tile((slice(top, bottom), slice(left, right)), (slice(above, below), slice(west, east)))


def _count(length: int, tile: int, overlap: int, align: int) -> int:
    """How many windows an axis needs."""
    return max(ceil((length - tile) / ((tile - overlap) // align * align)), 0) + 1


def _least(length: int, tile: int, overlap: int, align: int) -> int:
    """The least side, a multiple of `align`, of which an axis needs no more windows than of `tile`."""
    most, first = _count(length, tile, overlap, align), (ceil(overlap / align) + 1) * align
    sides = (side for side in range(first, tile, align) if _count(length, side, overlap, align) <= most)
    return next(sides, tile)


def _spans(length: int, tile: int, overlap: int, align: int) -> list[tuple[int, int, int, int]]:
    """The windows and cores along one axis; the last window ends with the image."""
    last, step = max(ceil((length - tile) / align) * align, 0), (tile - overlap) // align * align
    starts = [*range(0, last, step), last]
    stops = [min(start + tile, length) for start in starts]
    borders = [0, *((start + stop) // 2 for start, stop in zip(starts[1:], stops)), length]
    return list(zip(starts, stops, borders, borders[1:]))


class Mosaic:
    """The results of tiles joined to one id map.

    While it grows, ids 1…C are the stuff of each label, larger ones things in the order in which they came.

    Args:
        size: (height, width) of the image.
        overlap: of the tiling.
        categories: the label set.

    Raises:
        MaskconverError: there is no room for the id map.
    """

    def __init__(self, size: tuple[int, int], overlap: int, categories: Categories) -> None:
        self.categories, self.slack = categories, overlap / SLACK
        self.ids = id_map(size)
        self._stuff = len(categories)
        self._labels = [0, *range(self._stuff)]
        self._scores = [0.0] * (self._stuff + 1)
        self._whole = [False] * (self._stuff + 1)  # seen by one tile from end to end
        self._parents = list(range(self._stuff + 1))

    def add(self, result: Segmentation, tile: Tile) -> None:
        """Take over what a tile gives.

        Args:
            result: of the tile's window, at its size.
            tile: where it lies; tiles come in the order of `Tiling`.
        """
        (ys, xs), (core_ys, core_xs) = tile.window, tile.core
        if not xs.start:  # the rows before are done for now
            let_go(self.ids)
        if not len(result):
            return
        inner = (
            slice(core_ys.start - ys.start, core_ys.stop - ys.start),
            slice(core_xs.start - xs.start, core_xs.stop - xs.start),
        )
        ids, below = result.ids, self.ids[ys, xs]
        n = max(s.id for s in result) + 1
        in_core = np.bincount(ids[inner].ravel(), minlength=n)
        agreeing = self._agreeing(ids, below)
        whole, part, stuff = (np.zeros(n, np.int32) for _ in range(3))
        replaced: list[int] = []
        for segment in result:
            if not segment.is_thing:
                stuff[segment.id] = segment.label + 1
                self._scores[segment.label + 1] = max(self._scores[segment.label + 1], segment.score)
                continue
            cut = self._is_cut(segment, ys, xs)
            side = self._side(segment, tile)
            if (cut and not in_core[segment.id]) or (side is None and not cut):
                continue
            found = agreeing.get(segment.id, [])
            own = segment.area
            if any(
                self._whole[e] and shared >= AGREE * (own if cut else min(own, area))
                for e, shared, area in found
            ):
                continue  # given already
            joined = [
                e
                for e, shared, area in found
                if shared >= AGREE * area and self._labels[e] == segment.label and (cut or not self._whole[e])
            ]
            if not joined and not cut and side == "after":
                continue  # its tile comes later
            if not joined and not cut and side == "before" and found:
                continue
            number = self._join(joined, segment, whole=not cut)
            if cut:
                part[segment.id] = number
            else:
                whole[segment.id] = number
                replaced += joined
        self._paint(ids, below, inner, (whole, part, stuff), replaced)

    def _agreeing(
        self, ids: NDArray[np.int32], below: NDArray[np.int32]
    ) -> dict[int, list[tuple[int, int, int]]]:
        """For each segment of a tile the things given there already: (id, shared pixels, its pixels here)."""
        flat = below.reshape(-1)
        places = np.flatnonzero(flat > self._stuff)
        if not len(places):
            return {}
        numbers = np.unique(flat[places])
        there = np.array([self._root(e) for e in numbers.tolist()])
        known = there[np.searchsorted(numbers, flat[places])]
        areas = dict(zip(*(part.tolist() for part in np.unique(known, return_counts=True))))
        pairs, shared = np.unique(ids.reshape(-1)[places].astype(np.int64) << 32 | known, return_counts=True)
        found: dict[int, list[tuple[int, int, int]]] = {}
        for own, other, count in zip((pairs >> 32).tolist(), (pairs & 0xFFFFFFFF).tolist(), shared.tolist()):
            found.setdefault(own, []).append((other, count, areas[other]))
        return found

    def _is_cut(self, segment: Segment, ys: slice, xs: slice) -> bool:
        """Whether it reaches a side of the window that is none of the image."""
        x, y, width, height = segment.bbox
        low = (y == 0 and ys.start > 0) or (x == 0 and xs.start > 0)
        bottom, right = ys.start + y + height, xs.start + x + width
        return low or (bottom == ys.stop < self.ids.shape[0]) or (right == xs.stop < self.ids.shape[1])

    def _side(self, segment: Segment, tile: Tile) -> str | None:
        """Where its centre lies: in the core, before or after it in the order of tiles; None for far away."""
        x, y, width, height = segment.bbox
        centre = tile.window[0].start + y + height / 2, tile.window[1].start + x + width / 2
        for at, core in zip(centre, tile.core):
            if not core.start - self.slack <= at < core.stop + self.slack:
                return None
        for at, core in zip(centre, tile.core):
            if not core.start <= at < core.stop:
                return "before" if at < core.start else "after"
        return "core"

    def _join(self, numbers: list[int], segment: Segment, *, whole: bool) -> int:
        """The id of a segment: that of the first of the things it continues, or a new one."""
        if not numbers:
            self._labels.append(segment.label)
            self._scores.append(segment.score)
            self._whole.append(whole)
            self._parents.append(len(self._parents))
            return len(self._parents) - 1
        first = min(numbers)
        for number in numbers:
            self._parents[number] = first
        self._scores[first] = max(segment.score, *(self._scores[number] for number in numbers))
        self._whole[first] = whole or any(self._whole[number] for number in numbers)
        return first

    def _root(self, number: int) -> int:
        while self._parents[number] != number:
            self._parents[number] = number = self._parents[self._parents[number]]
        return number

    def _paint(
        self,
        ids: NDArray[np.int32],
        below: NDArray[np.int32],
        inner: tuple[slice, slice],
        tables: tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]],
        replaced: list[int],
    ) -> None:
        """Write into the map: things over stuff and void, whole ones everywhere, all others in the core."""
        whole, part, stuff = tables
        if replaced:  # parts of what this tile sees whole
            below[np.isin(below, [e for e in np.unique(below) if self._root(int(e)) in replaced])] = 0
        if whole.any():
            new = whole[ids]
            np.copyto(below, new, where=(new > 0) & (below <= self._stuff))
        core, own = below[inner], ids[inner]
        if part.any():
            new = part[own]
            np.copyto(core, new, where=(new > 0) & (core <= self._stuff))
        if stuff.any():
            new = stuff[own]
            np.copyto(core, new, where=(new > 0) & (core == 0))

    def segmentation(self) -> Segmentation:
        """The whole image's: ids 1…S by score, then from top to bottom. The mosaic is used up."""
        count = len(self._parents)
        roots = np.array([self._root(number) for number in range(count)], np.int32)
        listed = np.arange(1, count)
        areas = np.zeros(count - 1, np.int64)
        low, high = np.full((count - 1, 2), np.iinfo(np.int64).max), np.zeros((count - 1, 2), np.int64)
        for top, band in self._bands():
            np.take(roots, band, out=band, mode="clip")
            area, boxes = measure(band, listed)
            there = area > 0
            areas += area
            corner = boxes[there, :2] + [0, top]
            low[there] = np.minimum(low[there], corner)
            high[there] = np.maximum(high[there], corner + boxes[there, 2:])
        kept = np.flatnonzero(areas)
        scores = np.array(self._scores[1:])
        kept = kept[np.lexsort((low[kept, 0], low[kept, 1], -scores[kept]))]
        numbers = np.zeros(count, np.int32)
        numbers[kept + 1] = np.arange(1, len(kept) + 1)
        for _, band in self._bands():
            np.take(numbers, band, out=band, mode="clip")
        segments = []
        for number, i in enumerate(kept.tolist(), 1):
            label = self._labels[i + 1]
            c = self.categories[label]
            (x, y), (right, bottom) = low[i].tolist(), high[i].tolist()
            box, size = (x, y, right - x, bottom - y), int(areas[i])
            segments.append(Segment(number, label, c.id, c.name, c.is_thing, float(scores[i]), size, box))
        return Segmentation(self.ids, segments, self.categories)

    def _bands(self) -> Iterator[tuple[int, NDArray[np.int32]]]:
        rows = max(BAND_PIXELS // max(self.ids.shape[1], 1), 1)
        for top in range(0, self.ids.shape[0], rows):
            yield top, self.ids[top : top + rows]
            let_go(self.ids)


def id_map(size: tuple[int, int]) -> NDArray[np.int32]:
    """H×W int32 zeros: in memory, or in a temporary file that vanishes with the array where it is large.

    Raises:
        MaskconverError: the folder of temporary files has no room.
    """
    height, width = size
    if 4 * height * width <= MEMORY_BYTES:
        return np.zeros(size, np.int32)
    import tempfile  # of the modules that the first small image does not need, the one that costs most

    with tempfile.TemporaryFile(prefix="maskconver-ids-") as file:
        try:
            if hasattr(os, "posix_fallocate"):  # a full disk must be told now: later it ends the process
                os.posix_fallocate(file.fileno(), 0, 4 * height * width)
            return np.memmap(file, np.int32, "r+" if hasattr(os, "posix_fallocate") else "w+", shape=size)
        except OSError as error:
            raise MaskconverError(
                f"the id map of {width}×{height} pixels needs {4 * height * width / 1e9:.1f} GB in "
                f"{tempfile.gettempdir()} ({error.strerror}); set TMPDIR to a folder with more room"
            ) from None
