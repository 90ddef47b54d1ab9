"""`Segmentation`: the result for one image: an id per pixel and a row per segment."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import DataError, MaskconverError
from .categories import VOID_LABEL, Categories
from .drawing import draw
from .files import atomic_path
from .preprocess import white_of
from .resize import resize_nearest
from .segments import Segment, lookup, measure

if TYPE_CHECKING:
    import pandas
    import supervision
    from PIL.Image import Image


class Instances(NamedTuple):
    """Things of one image that may overlap, highest score first; see `merge.instances`.

    Attributes:
        masks: k×H×W bool.
        labels: (k,) int64 in 0…C-1.
        scores: (k,) float32 in 0…1.
    """

    masks: NDArray[np.bool_]
    labels: NDArray[np.int64]
    scores: NDArray[np.float32]

    def resized(self, size: tuple[int, int]) -> Instances:
        """The same at another (height, width), by nearest neighbour."""
        if self.masks.shape[1:] == tuple(size):
            return self
        masks = resize_nearest(self.masks.transpose(1, 2, 0), size).transpose(2, 0, 1)
        return self._replace(masks=masks)


@dataclass(slots=True, repr=False)
class Segmentation:
    """The panoptic segmentation of one image.

    Example:
        >>> import numpy as np
        >>> import maskconver as mc
        >>> pets = mc.Categories.from_json([{"id": 7, "name": "cat", "isthing": 1}])
        >>> mc.Segmentation.from_ids(np.array([[0, 1], [1, 1]]), pets, labels=[0])
        <Segmentation: 2×2 px, 1 things, 0 stuff: 1 cat>

    Attributes:
        ids: H×W int32 segment ids, 0 = void.
        segments: a row for every id, highest score first where a model made them.
        categories: the label set.
        image: H×W×3 uint8 RGB (or of the model's channels and bits), the image itself, or None.
        file_name: where the image came from; "" if unknown.
        semantic: H×W int32 labels from the scores of all masks, which need not agree with the segments; None
            unless made by `Predictor(semantic=True)`.
        instances: the best (mask, class) pairs; None unless made by `Predictor(instances=N)`.
    """

    ids: NDArray[np.int32]
    segments: list[Segment]
    categories: Categories
    image: NDArray[Any] | None = field(default=None, compare=False)
    file_name: str = ""
    semantic: NDArray[np.int32] | None = field(default=None, compare=False)
    instances: Instances | None = field(default=None, compare=False)

    @classmethod
    def from_ids(
        cls,
        ids: NDArray[np.integer],
        categories: Categories,
        *,
        labels: ArrayLike,
        segment_ids: ArrayLike | None = None,
        scores: ArrayLike | None = None,
        image: NDArray[Any] | None = None,
        file_name: str = "",
    ) -> Segmentation:
        """Build the rows from an id map: areas and boxes of all segments in one pass.

        Args:
            ids: H×W segment ids, 0 = void.
            categories: the label set.
            labels: (S,) label of each segment, 0…C-1.
            segment_ids: (S,) the id of each; 1…S if left out.
            scores: (S,) in 0…1; 1 if left out.
            image, file_name: as in the class.

        Raises:
            DataError: the map holds an id that is not listed; an id is listed twice, not positive or beyond
                2³¹-1; a label does not exist.
        """
        labels = np.asarray(labels, np.int64)
        listed = np.arange(1, len(labels) + 1) if segment_ids is None else np.asarray(segment_ids, np.int64)
        values = np.ones(len(labels)) if scores is None else np.asarray(scores, float)
        if len(labels) and not (labels.min() >= 0 and labels.max() < len(categories)):
            raise DataError(f"labels must be in 0…{len(categories) - 1}, got {labels.min()}…{labels.max()}")
        if listed.max(initial=0) > np.iinfo(np.int32).max:
            raise DataError(f"segment id {listed.max()} is too large; ids are below 2³¹")
        areas, boxes = measure(ids, listed)
        segments = []
        for row in zip(listed.tolist(), labels.tolist(), values.tolist(), areas.tolist(), boxes.tolist()):
            number, label, score, area, box = row
            c = categories[label]
            segments.append(Segment(number, label, c.id, c.name, c.is_thing, score, area, tuple(box)))
        return cls(ids.astype(np.int32, copy=False), segments, categories, image, file_name)

    def __len__(self) -> int:
        return len(self.segments)

    def __iter__(self) -> Iterator[Segment]:
        return iter(self.segments)

    def __repr__(self) -> str:
        counts: dict[str, int] = {}
        for s in self.segments:
            counts[s.category] = counts.get(s.category, 0) + 1
        common = sorted(counts.items(), key=lambda item: -item[1])
        rows = ", ".join(f"{n} {name}" for name, n in common[:6]) + (", …" if len(common) > 6 else "")
        things = sum(s.is_thing for s in self.segments)
        height, width = self.ids.shape
        source = f" of {self.file_name}" if self.file_name else ""
        return (
            f"<Segmentation{source}: {width}×{height} px, {things} things, {len(self) - things} stuff"
            f"{': ' + rows if rows else ''}>"
        )

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.draw().save(buffer, "PNG")
        return buffer.getvalue()

    def category_map(self) -> NDArray[np.int32]:
        """H×W int32 labels, -1 = void: the semantic segmentation; `semantic` if it is not None."""
        if self.semantic is not None:
            return self.semantic
        return lookup(self.ids, [s.id for s in self.segments], [s.label for s in self.segments], VOID_LABEL)

    def mask(self, segment_id: int) -> NDArray[np.bool_]:
        """H×W bool, the pixels of one segment."""
        return self.ids == segment_id

    def resized(self, size: tuple[int, int]) -> Segmentation:
        """The same at another (height, width), by nearest neighbour; the image, too.

        Segments without a remaining pixel are left out.
        """
        if self.ids.shape == tuple(size):
            return self
        image = None if self.image is None else resize_nearest(self.image, size)
        areas, boxes = measure(
            ids := resize_nearest(self.ids, size), np.array([s.id for s in self], np.int64)
        )
        rows = zip(self.segments, areas.tolist(), boxes.tolist())
        segments = [replace(s, area=area, bbox=tuple(box)) for s, area, box in rows if area]
        semantic = None if self.semantic is None else resize_nearest(self.semantic, size)
        instances = None if self.instances is None else self.instances.resized(size)
        return replace(self, ids=ids, segments=segments, image=image, semantic=semantic, instances=instances)

    def filter(
        self,
        predicate: Callable[[Segment], bool] | None = None,
        *,
        category: str | Collection[str] | None = None,
        things: bool | None = None,
        min_score: float = 0.0,
        min_area: int = 0,
    ) -> Segmentation:
        """The same image with fewer segments. The pixels of the others become void; ids do not change.

        Args:
            predicate: keep a segment where this is true.
            category: keep these names.
            things: keep things (true) or stuff (false) only.
            min_score, min_area: keep at least this score, this many pixels.
        """
        names = {category} if isinstance(category, str) else category
        kept = [
            s
            for s in self.segments
            if (names is None or s.category in names)
            and (things is None or s.is_thing == things)
            and s.score >= min_score
            and s.area >= min_area
            and (predicate is None or predicate(s))
        ]
        numbers = [s.id for s in kept]
        ids = lookup(self.ids, numbers, numbers, 0)
        return replace(self, ids=ids, segments=kept, semantic=None, instances=None)

    def draw(
        self,
        image: NDArray[Any] | None = None,
        *,
        alpha: float = 0.45,
        borders: bool = True,
        labels: bool | None = None,
        scores: bool = False,
        by_id: bool = False,
    ) -> Image:
        """The segments as a coloured layer over the image.

        Every thing has its own colour near its category's; stuff has the category's.

        Args:
            image: H×W×3 uint8 to draw on; the segmentation's own if left out, black if there is none.
            alpha: strength of the fill, 0…1.
            borders: draw a line around every segment.
            labels: write the category where there is room; None: if there are more than two categories.
            scores: add the score in percent.
            by_id: a thing's colour depends on its id alone, so that it stays from frame to frame.
        """
        return draw(
            self.ids,
            self.segments,
            self.categories,
            image=self.image if image is None else image,
            alpha=alpha,
            borders=borders,
            labels=labels,
            scores=scores,
            by_id=by_id,
        )

    def to_coco(
        self, image_id: int | str = 0, file_name: str | None = None, *, rle: bool = False
    ) -> dict[str, Any]:
        """The row of `annotations` of a COCO panoptic JSON; `score` is added to the format's keys.

        Args:
            image_id: as in the file's `images`.
            file_name: of the panoptic PNG; the image's stem + `.png` if left out.
            rle: adds each segment's mask as `segmentation`, COCO's compressed run-length code.
        """
        rows: list[dict[str, Any]] = [
            {
                "id": s.id,
                "category_id": s.category_id,
                "area": s.area,
                "bbox": list(s.bbox),
                "iscrowd": 0,
                "score": round(s.score, 5),
            }
            for s in self.segments
        ]
        if rle:
            from .rle import encode_segments

            numbers = np.array([s.id for s in self.segments], np.int64)
            for row, (code, _) in zip(rows, encode_segments(self.ids, numbers, compress=True)):
                row["segmentation"] = code
        return {"image_id": image_id, "file_name": file_name or self._stem() + ".png", "segments_info": rows}

    def to_labels(self, *, things: bool | None = True) -> NDArray[np.int32]:
        """A label image as napari and scikit-image take it: H×W int32, the segments' ids, 0 elsewhere.

        Args:
            things: only things (true), only stuff (false), or all segments (None).
        """
        return self.filter(things=things).ids

    def to_dataframe(
        self, *, intensity: bool | NDArray[Any] = False, pixel_size: float | None = None
    ) -> pandas.DataFrame:
        """A row for each segment: class, score, area, box, centroid, and more on request.

        Args:
            intensity: true adds the mean brightness of the segmentation's image; an array H×W[×C], e.g. the
                image in 16 bits, adds the mean of its values.
            pixel_size: side of a pixel in a unit of yours; adds columns in that unit.

        Returns:
            The columns of `maskconver.core.exchange.table`.

        Raises:
            DataError: an intensity image of another size, or none where the segmentation has no image.
            MaskconverError: pandas is not installed.
        """
        try:
            import pandas
        except ModuleNotFoundError:
            raise MaskconverError("to_dataframe needs pandas: pip install pandas") from None
        from .exchange import table

        values = intensity if isinstance(intensity, np.ndarray) else self.brightness() if intensity else None
        return pandas.DataFrame(table(self.ids, self.segments, intensity=values, pixel_size=pixel_size))

    def brightness(self) -> NDArray[np.float32]:
        """H×W float32 in 0…255, the mean of the image's channels.

        Raises:
            DataError: the segmentation has no image.
        """
        if self.image is None:
            raise DataError("this segmentation has no image; give the intensities as an array")
        values = self.image if self.image.ndim == 3 else self.image[..., None]
        return values.mean(2, dtype=np.float32) * np.float32(255 / white_of(values))

    def to_geojson(self, *, pixel_size: float | None = None) -> dict[str, Any]:
        """A GeoJSON FeatureCollection as QuPath reads it: polygons in pixels, with holes, and measurements.

        Args:
            pixel_size: side of a pixel in a unit of yours; adds measurements in that unit.
        """
        from .exchange import features

        found = features(self.ids, self.segments, self.categories, pixel_size=pixel_size)
        return {"type": "FeatureCollection", "features": list(found)}

    def to_supervision(self) -> supervision.Detections:
        """The segments as detections of the package supervision, `class_id` being the label.

        Masks are N×H×W bool, which is large for many objects: `filter` first. Beyond 256 MB they become a
        `CompactMask`, where supervision has it.

        Raises:
            MaskconverError: supervision is not installed.
        """
        from .exchange import detections

        return detections(self.ids, self.segments)

    def save(self, folder: str | os.PathLike[str], name: str | None = None) -> Path:
        """Write `<name>.png` (ids as COCO's RGB) and `<name>.json` (a COCO panoptic file of this one image).

        Args:
            folder: created if needed.
            name: without extension; files of that name are replaced. By default the stem of the image's file,
                numbered (`cells_2`) if the folder already has such files.

        Returns:
            The path of the JSON.

        Raises:
            OSError: the folder cannot be written.
        """
        import json

        from .panoptic_png import write_panoptic_png

        stem = self._free_stem(Path(folder)) if name is None else name
        path = Path(folder) / f"{stem}.json"
        height, width = self.ids.shape
        content = {
            "images": [{"id": stem, "file_name": self.file_name or stem, "height": height, "width": width}],
            "annotations": [self.to_coco(stem, f"{stem}.png")],
            "categories": self.categories.to_json(),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        write_panoptic_png(path.with_suffix(".png"), self.ids)
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        return path

    def _free_stem(self, folder: Path) -> str:
        stem, number = self._stem(), 1
        while any((folder / f"{stem}{end}").exists() for end in (".json", ".png")):
            number += 1
            stem = f"{self._stem()}_{number}"
        return stem

    def _stem(self) -> str:
        return Path(self.file_name).stem or "segmentation"
