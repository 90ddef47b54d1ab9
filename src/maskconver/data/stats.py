"""`dataset_stats`: what a data set looks like, in figures by which to choose model, input and training."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..core.categories import Categories
from ..core.preprocess import white_of
from ..core.segments import Runs, SegmentTable, measure
from ..errors import DataError, MaskconverError, one_line
from ..io.images import MAX_PIXELS, image_form, read_image
from ..io.panoptic_json import PanopticFile, read_panoptic_json, read_panoptic_png
from ..io.sources import FileSource
from .check.report import proposals_for
from .coco import require_images
from .label_folder import LabelFolder, segment_table
from .layout import DataPaths, LabelLayout, Layout, find_layout, find_splits

STRIDES = (4, 8, 16)
PIXEL_IMAGES = 200  # so many are decoded for mean and standard deviation
QUANTILES = (0, 10, 50, 90, 100)
Result = TypeVar("Result")
PixelFigures = tuple[int, int, NDArray[np.float64], float, bool]


@dataclass
class Stats:
    """Figures of one split. Crowds do not count; the segments of a stuff class in an image count as one.

    Attributes:
        split: its name.
        path: the file that describes it.
        categories: the label set.
        images: how many have an annotation.
        sizes: (N, 2) int64, height and width of the N images that were looked at.
        image: (S,) int64, the image of each object, 0…N-1.
        labels: (S,) int64.
        areas: (S,) float64, pixels.
        centers: (S, 2) float64, y and x of the middle of the box, pixels.
        channels: how many the images have, alpha left out: 3 where grey and RGB are mixed, otherwise the
            most frequent number.
        bits: of a channel; 16 where any image has more than 8.
        mean, std: of each channel, in 0…1.
        span: share of the range of values that an image uses, 0.5th to 99.8th percentile (median).
        grey: whether the channels of all images are equal.
        pixel_images: how many images were decoded for that.
        unreadable: how many files could not be read, annotations and images.
        fault: what is wrong with the first of them; "" where there is none.
    """

    split: str
    path: str
    categories: Categories
    images: int
    sizes: NDArray[np.int64]
    image: NDArray[np.int64]
    labels: NDArray[np.int64]
    areas: NDArray[np.float64]
    centers: NDArray[np.float64]
    channels: int = 3
    bits: int = 8
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    span: float = 1.0
    grey: bool = False
    pixel_images: int = 0
    unreadable: int = 0
    fault: str = ""
    _counts: NDArray[np.int64] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._counts = np.bincount(self.image, minlength=len(self.sizes))

    @property
    def objects_per_image(self) -> NDArray[np.int64]:
        """(N,) int64: proposals that each image asks for."""
        return self._counts

    @property
    def proposals(self) -> int:
        """A number of proposals that is enough for the fullest image."""
        return proposals_for(int(self._counts.max(initial=0)))

    @property
    def is_thing(self) -> NDArray[np.bool_]:
        """(S,) bool."""
        return self.categories.is_thing[self.labels]

    def scales(self, fit: tuple[int, int] | None) -> NDArray[np.float64]:
        """(N,) factor of each image on a network input of (height, width); 1 for its own size."""
        return np.ones(len(self.sizes)) if fit is None else (np.array(fit) / self.sizes).min(1)

    def object_sides(self, fit: tuple[int, int] | None = None) -> NDArray[np.float64]:
        """Square roots of the areas of all things, pixels of the network input."""
        return (np.sqrt(self.areas) * self.scales(fit)[self.image])[self.is_thing]

    def collisions(self, stride: int, fit: tuple[int, int] | None = None) -> tuple[float, float]:
        """Shares of objects whose centre lies in the same cell of a heatmap as another one of their image.

        Objects of different classes in one cell are what MaskConver's class embeddings tell apart (arXiv
        2312.06052); of two objects of one class in one cell, one is lost.

        Args:
            stride: side of a cell, pixels of the network input.
            fit: its (height, width); None for images at their own size.

        Returns:
            Of any class, and of the same class; 0…1.
        """
        if not len(self.image):
            return 0.0, 0.0
        cells = np.floor((self.centers + 0.5) * self.scales(fit)[self.image, None] / stride).astype(np.int64)
        key = (self.image << 40) | (cells[:, 0] << 20) | cells[:, 1]
        found = []
        for keys in (key[:, None], np.stack([key, self.labels], 1)):
            _, inverse, counts = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
            found.append(float((counts[inverse.ravel()] > 1).mean()))
        return found[0], found[1]

    def classes(self) -> list[dict[str, Any]]:
        """A row for every class: name, isthing, objects, images, share of the pixels, median side."""
        pixels = max(float(self.sizes.prod(1).sum()), 1.0)
        rows = []
        for label, category in enumerate(self.categories):
            own = self.labels == label
            areas = self.areas[own]
            rows.append(
                {
                    "name": category.name,
                    "isthing": int(category.is_thing),
                    "objects": int(own.sum()),
                    "images": len(np.unique(self.image[own])),
                    "pixel_share": float(areas.sum() / pixels),
                    "median_side": float(np.sqrt(np.median(areas))) if len(areas) else 0.0,
                }
            )
        return rows

    def to_json(self, fit: tuple[int, int] | None = None) -> dict[str, Any]:
        """All figures as plain JSON values; collisions also for a network input of (height, width)."""

        def spread(values: NDArray[Any]) -> dict[str, float]:
            points = np.percentile(values, QUANTILES) if len(values) else np.zeros(len(QUANTILES))
            return {f"p{q}": round(float(v), 2) for q, v in zip(QUANTILES, points)}

        inputs = [None, fit] if fit else [None]
        return {
            "split": self.split,
            "path": self.path,
            "images": self.images,
            "images_looked_at": len(self.sizes),
            "unreadable": self.unreadable,
            "fault": self.fault,
            "height": spread(self.sizes[:, 0]),
            "width": spread(self.sizes[:, 1]),
            "channels": self.channels,
            "bits": self.bits,
            "mean": list(self.mean),
            "std": list(self.std),
            "value_span": round(self.span, 4),
            "grey": self.grey,
            "objects_per_image": spread(self.objects_per_image),
            "proposals": self.proposals,
            "thing_side": spread(self.object_sides()),
            "collisions": [
                {
                    "input": list(size) if size else "own size",
                    "stride": stride,
                    **dict(zip(("any_class", "same_class"), self.collisions(stride, size))),
                }
                for size in inputs
                for stride in STRIDES
            ],
            "classes": self.classes(),
        }


@dataclass(frozen=True, slots=True)
class _Rows:
    """The segments of some images: whose, label, crowd, area, and box as x, y, width, height."""

    image: NDArray[np.int64]
    labels: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    areas: NDArray[Any]
    boxes: NDArray[Any]


def dataset_stats(
    data: str | os.PathLike[str] | None,
    split: str | None = None,
    paths: DataPaths | None = None,
    *,
    max_images: int = 2000,
    workers: int = 4,
    max_pixels: int = MAX_PIXELS,
    progress: Callable[[int], Callable[[], Any]] | None = None,
    **files: str | os.PathLike[str] | None,
) -> Stats:
    """Figures of a split of a data set.

    A panoptic JSON that states boxes, areas and sizes is enough for all figures of objects, so no PNG is
    opened and all images count. Otherwise at most `max_images` annotations are opened, the same ones each
    time; images are decoded for mean and standard deviation only, at most 200 of them.

    Example:
        >>> import maskconver as mc
        >>> mc.data.dataset_stats("my_data", "val").images
        2

    Args:
        data: the folder of the data set; None when all files are given.
        split: its name; if left out `train`, or the only one.
        paths: files that lie elsewhere.
        max_images: annotation files that are opened at most.
        workers: threads that open files.
        max_pixels: as in `read_image`.
        progress: called with the number of files; what it returns is called after each.
        files: fields of `DataPaths`, by name.

    Raises:
        DataError: no such data set, an unsound JSON, or nothing that can be read.
    """
    paths = DataPaths.of(paths, **files)
    if split is None and data is not None and paths == DataPaths() and "train" in find_splits(data):
        split = "train"
    layout = find_layout(data, split, paths)
    source = _Labels(layout) if isinstance(layout, LabelLayout) else _Panoptic(layout)
    every = source.every()
    chosen = _spread(len(source), len(source) if every else max_images)
    drawn = _spread(len(chosen), min(max_images, PIXEL_IMAGES))
    advance = progress(len(drawn) + (0 if every else len(chosen))) if progress else None
    with ThreadPoolExecutor(max(workers, 1)) as pool:
        opened = [*pool.map(_quiet(source.one, advance), chosen)] if not every else []
        decode = _Pixels(source, max_pixels)
        decoded = [*pool.map(_quiet(decode, advance), [chosen[k] for k in drawn])]
    faults = [one for one in (*opened, *decoded) if isinstance(one, Exception)]
    fault = one_line(faults[0]) if faults else ""
    sizes, rows = every or _joined([one for one in opened if not isinstance(one, Exception)])
    if not len(sizes):
        raise DataError(f"no annotation can be read (first: {fault})", where=source.path)
    objects = _objects(rows, source.categories.is_thing)
    stats = Stats(layout.split, source.path, source.categories, len(source), sizes, *objects)
    stats.unreadable, stats.fault = len(faults), fault
    if pixels := [one for one in decoded if not isinstance(one, Exception)]:
        _add_pixels(stats, pixels)
    return stats


def _quiet(
    work: Callable[[int], Result], advance: Callable[[], Any] | None
) -> Callable[[int], Result | MaskconverError | OSError]:
    """The same, with the error for files that cannot be read."""

    def done(index: int) -> Result | MaskconverError | OSError:
        try:
            return work(index)
        except (MaskconverError, OSError) as error:
            return error
        finally:
            if advance:
                advance()

    return done


def _spread(count: int, limit: int) -> list[int]:
    """At most `limit` of so many indices, drawn once and for all."""
    if count <= limit:
        return [*range(count)]
    return sorted(np.random.default_rng(0).choice(count, limit, replace=False).tolist())


def _joined(opened: list[tuple[tuple[int, int], _Rows]]) -> tuple[NDArray[np.int64], _Rows]:
    sizes = np.array([size for size, _ in opened], np.int64).reshape(-1, 2)
    image = np.repeat(np.arange(len(opened)), [len(rows.labels) for _, rows in opened])
    names = ("labels", "crowd", "areas", "boxes")
    columns = (np.concatenate([getattr(rows, n) for _, rows in opened] or [np.zeros(0)]) for n in names)
    return sizes, _Rows(image, *columns)


def _objects(
    rows: _Rows, is_thing: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Image, label, area and centre of each object; the segments of a stuff class of an image are one."""
    kept = ~rows.crowd.astype(bool) & (rows.labels >= 0) & (rows.areas > 0)
    image, labels, areas = rows.image[kept], rows.labels[kept], rows.areas[kept].astype(np.float64)
    low = rows.boxes[kept, :2].astype(np.float64)
    high = low + rows.boxes[kept, 2:]
    key = image * (len(is_thing) + 1) + labels
    key = np.where(is_thing[labels], -1 - np.arange(len(key)), key)  # of stuff alone a key occurs twice
    _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
    lows, highs, sums = np.full((len(first), 2), np.inf), np.zeros((len(first), 2)), np.zeros(len(first))
    np.minimum.at(lows, inverse, low)
    np.maximum.at(highs, inverse, high)
    np.add.at(sums, inverse, areas)
    order = np.argsort(image[first], kind="stable")
    first = first[order]
    return image[first], labels[first], sums[order], ((lows + highs - 1) / 2)[order, ::-1]


class _Panoptic:
    """COCO panoptic data: from the JSON alone where it says enough."""

    def __init__(self, layout: Layout) -> None:
        self.file: PanopticFile = read_panoptic_json(layout.panoptic_json)
        self.path, self.categories = self.file.path, self.file.categories
        require_images(self.file)
        self.images, self.pngs = FileSource(layout.images), FileSource(layout.panoptic_pngs)
        self.row_of = {image.id: image for image in reversed(self.file.images)}

    def __len__(self) -> int:
        return len(self.file)

    def image_name(self, index: int) -> str:
        return self.row_of[self.file.image_ids[index]].file_name

    def every(self) -> tuple[NDArray[np.int64], _Rows] | None:
        """Sizes and segments of all images, where the JSON states them."""
        table, boxes = self.file.segments, self.file.boxes
        sizes = np.array([(r.height, r.width) for i in self.file.image_ids for r in (self.row_of[i],)])
        if not len(table) or not sizes.all() or np.isnan(boxes).any() or not (table.areas > 0).all():
            return None
        image = np.repeat(np.arange(len(sizes)), np.diff(self.file.offsets))
        return sizes, _Rows(image, table.labels, table.crowd, table.areas, boxes)

    def one(self, index: int) -> tuple[tuple[int, int], _Rows]:
        name, table = self.file.png_names[index], self.file.table(index)
        ids = read_panoptic_png(self.pngs.read(name), self.pngs.where(name))
        return (ids.shape[0], ids.shape[1]), _measured(ids, table)


class _Labels:
    """A label folder: every annotation is opened."""

    def __init__(self, layout: LabelLayout) -> None:
        self.data = LabelFolder(layout.images, layout.labels, layout.classes)
        self.path, self.categories, self.images = str(self.data.path), self.data.categories, self.data.images

    def __len__(self) -> int:
        return len(self.data)

    def image_name(self, index: int) -> str:
        return self.data.file_names[index]

    def every(self) -> None:
        """Nothing is known before the files are opened."""

    def one(self, index: int) -> tuple[tuple[int, int], _Rows]:
        ids = self.data.ids(index)
        return (ids.shape[0], ids.shape[1]), _measured(ids, segment_table(ids, self.categories.ids))


def _measured(ids: NDArray[np.int32], table: SegmentTable) -> _Rows:
    present = np.union1d(np.unique(Runs.of(ids).ids), table.ids)
    present = present[present > 0]
    at = np.searchsorted(present, table.ids)
    areas, boxes = (values[at] for values in measure(ids, present))
    return _Rows(np.zeros(len(at), np.int64), table.labels, table.crowd, areas, boxes)


@dataclass(frozen=True, slots=True)
class _Pixels:
    """Channels, bits and the sums of one image after the other."""

    source: _Panoptic | _Labels
    max_pixels: int

    def __call__(self, index: int) -> PixelFigures:
        name, images = self.source.image_name(index), self.source.images
        data, where = images.read(name), images.where(name)
        channels, bits = image_form(data, name=where)
        pixels = read_image(
            data, name=where, max_pixels=self.max_pixels, channels=channels, bits=16 if bits > 8 else 8
        )
        white = white_of(pixels)
        flat = pixels.reshape(-1, channels)
        sums = np.stack([flat.mean(0) / white, (flat.astype(np.float32) ** 2).mean(0, np.float64) / white**2])
        low, high = np.percentile(flat[:: max(len(flat) // 20000, 1)], (0.5, 99.8))
        grey = channels == 1 or bool((flat == flat[:, :1]).all())
        return channels, bits, sums, float(high - low) / white, grey


def _add_pixels(stats: Stats, found: list[PixelFigures]) -> None:
    counts = np.bincount([one[0] for one in found])
    kinds = {one[0] for one in found}
    stats.channels = max(kinds) if kinds <= {1, 3} else int(counts.argmax())  # grey is read as RGB, too
    own = [one for one in found if one[0] in (1, stats.channels)]
    stats.bits = 16 if max(one[1] for one in found) > 8 else 8
    mean, square = np.mean([np.broadcast_to(one[2], (2, stats.channels)) for one in own], 0)
    stats.mean = tuple(round(float(v), 4) for v in mean)
    stats.std = tuple(round(float(v), 4) for v in np.sqrt(np.maximum(square - mean**2, 0)))
    stats.span = float(np.median([one[3] for one in own]))
    stats.grey = all(one[4] for one in found)
    stats.pixel_images = len(found)
