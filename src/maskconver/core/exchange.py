"""A segmentation in the forms that other programs take: tables, GeoJSON, supervision's detections."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, MaskconverError
from .categories import Categories
from .polygons import Polygon, ids_to_polygons
from .rle import encode_segments
from .segments import Runs, Segment, let_go, lookup

BAND_PIXELS = 1 << 24  # of an id map that are measured at a time
PIECE = 2048  # side in pixels; segments of larger maps are traced by pieces of about this size
DENSE_BYTES = 1 << 28  # more masks than this become supervision's CompactMask, where it has one


def table(
    ids: NDArray[np.integer],
    segments: Sequence[Segment],
    *,
    intensity: NDArray[Any] | None = None,
    pixel_size: float | None = None,
) -> dict[str, Any]:
    """The measurements of all segments, a column each, in one pass over the id map.

    Args:
        ids, segments: of a `Segmentation`, S rows.
        intensity: H×W or H×W×C values of which each segment gets the mean.
        pixel_size: side of a pixel in a unit of yours, e.g. micrometres.

    Returns:
        `id`, `class`, `is_thing`, `score`, `area` (pixels), `bbox_x`, `bbox_y`, `bbox_width`, `bbox_height`,
        `centroid_x`, `centroid_y` (the centre of the first pixel is 0.5); with `pixel_size` also
        `area_physical`, `bbox_width_physical`, `bbox_height_physical`, `centroid_x_physical` and
        `centroid_y_physical`; with `intensity` also `mean_intensity`, or `mean_intensity_0` and on, one a
        channel. NaN for segments without pixels.

    Raises:
        DataError: an intensity image of another size, or a pixel size that is not above 0.
    """
    if pixel_size is not None and not 0 < pixel_size < np.inf:
        raise DataError(f"`pixel_size={pixel_size:g}` must be a length above 0")
    if intensity is not None and (intensity.shape[:2] != ids.shape or intensity.ndim > 3):
        raise DataError(
            f"the intensity image has shape {intensity.shape}, the result {ids.shape}; give H×W or H×W×C"
        )
    count, rows = len(segments), max(BAND_PIXELS // max(ids.shape[1], 1), 1)
    channels = 0 if intensity is None else 1 if intensity.ndim == 2 else intensity.shape[2]
    sums = np.zeros((3 + channels, count + 1))
    for top in range(0, ids.shape[0], rows):
        band = ids[top : top + rows]
        runs = Runs.of(band)
        row = lookup(runs.ids, [s.id for s in segments], np.arange(count), count)
        values = [runs.length, runs.length * (runs.x + runs.length / 2), runs.length * (runs.y + top + 0.5)]
        for c in range(channels):
            part = intensity[top : top + rows]  # type: ignore[index]
            flat = np.ascontiguousarray(part if part.ndim == 2 else part[..., c]).ravel()
            values.append(np.add.reduceat(flat, runs.y * ids.shape[1] + runs.x, dtype=np.float64))
        for total, value in zip(sums, values):
            total += np.bincount(row, value, count + 1)
        let_go(ids)
    area, *moments = sums[:, :count]
    boxes = np.array([s.bbox for s in segments], np.int64).reshape(-1, 4)
    columns: dict[str, Any] = {
        "id": np.array([s.id for s in segments], np.int64),
        "class": [s.category for s in segments],
        "is_thing": [s.is_thing for s in segments],
        "score": np.array([s.score for s in segments], float),
        "area": area.astype(np.int64),
    }
    columns |= dict(zip(("bbox_x", "bbox_y", "bbox_width", "bbox_height"), boxes.T))
    pixels = np.where(area > 0, area, np.nan)
    columns["centroid_x"], columns["centroid_y"] = (moment / pixels for moment in moments[:2])
    if pixel_size is not None:
        columns["area_physical"] = area * pixel_size**2
        for name in ("bbox_width", "bbox_height", "centroid_x", "centroid_y"):
            columns[f"{name}_physical"] = columns[name] * pixel_size
    for c, moment in enumerate(moments[2:]):
        name = "mean_intensity" if intensity is not None and intensity.ndim == 2 else f"mean_intensity_{c}"
        columns[name] = moment / pixels
    return columns


def features(
    ids: NDArray[np.integer],
    segments: Sequence[Segment],
    categories: Categories,
    *,
    pixel_size: float | None = None,
) -> Iterator[dict[str, Any]]:
    """GeoJSON features as QuPath reads them, one for each segment with pixels.

    Things are QuPath's detections, stuff its annotations. Coordinates are pixels, (0, 0) being the upper left
    corner of the image, and exact: filling the polygons gives back the mask.

    Args:
        ids, segments, categories: of a `Segmentation`, or some of its rows.
        pixel_size: as of `table`; adds the physical measurements.
    """
    columns = table(ids, segments, pixel_size=pixel_size)
    names = [n for n in columns if n in ("id", "score", "area") or n.startswith("centroid") or "_phys" in n]
    rows = list(zip(*(np.round(columns[name], 5).tolist() for name in names)))
    for i, polygons in _polygons(ids, segments):
        segment = segments[i]
        color = list(categories[segment.label].color)
        yield {
            "type": "Feature",
            "geometry": _geometry(polygons),
            "properties": {
                "objectType": "detection" if segment.is_thing else "annotation",
                "classification": {"name": segment.category, "color": color},
                "measurements": dict(zip(names, rows[i])),
            },
        }


def _polygons(ids: NDArray[np.integer], segments: Sequence[Segment]) -> Iterator[tuple[int, list[Polygon]]]:
    """The polygons of segments, by position in the list; of large maps piece by piece."""
    if ids.size <= BAND_PIXELS:
        found = ids_to_polygons(ids)
        yield from ((i, found[s.id]) for i, s in enumerate(segments) if s.id in found)
        return
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, s in enumerate(segments):
        if s.area:
            x, y, width, height = s.bbox
            near = (y // PIECE, x // PIECE) if max(width, height) <= PIECE else (-1, i)
            groups.setdefault(near, []).append(i)
    for group in groups.values():
        boxes = np.array([segments[i].bbox for i in group])
        left, top = boxes[:, :2].min(0).tolist()
        right, bottom = (boxes[:, :2] + boxes[:, 2:]).max(0).tolist()
        numbers = [segments[i].id for i in group]
        found = ids_to_polygons(lookup(ids[top:bottom, left:right], numbers, numbers, 0))
        let_go(ids)
        shift = np.array([left, top], np.int32)
        for i in group:
            parts = found[segments[i].id]
            yield i, [(outer + shift, [hole + shift for hole in holes]) for outer, holes in parts]


def _geometry(polygons: list[Polygon]) -> dict[str, Any]:
    parts = [[[*ring.tolist(), ring[0].tolist()] for ring in (outer, *holes)] for outer, holes in polygons]
    if len(parts) == 1:
        return {"type": "Polygon", "coordinates": parts[0]}
    return {"type": "MultiPolygon", "coordinates": parts}


def detections(ids: NDArray[np.integer], segments: Sequence[Segment]) -> Any:
    """The segments with pixels as `supervision.Detections`; see `Segmentation.to_supervision`."""
    try:
        import supervision
    except ModuleNotFoundError:
        raise MaskconverError("to_supervision needs supervision: pip install supervision") from None
    kept = [s for s in segments if s.area]
    boxes = np.array([s.bbox for s in kept], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return supervision.Detections(
        xyxy=boxes,
        mask=_masks(ids, kept, boxes),
        confidence=np.array([s.score for s in kept], np.float32),
        class_id=np.array([s.label for s in kept], int),
        data={
            "class_name": np.array([s.category for s in kept]),
            "segment_id": np.array([s.id for s in kept]),
        },
    )


def _masks(ids: NDArray[np.integer], kept: list[Segment], boxes: NDArray[np.float32]) -> Any:
    """N×H×W bool, or the same as supervision's CompactMask where that is too much memory."""
    if len(kept) * ids.size > DENSE_BYTES:
        try:
            from supervision.detection.compact_mask import CompactMask
        except ModuleNotFoundError:
            pass
        else:
            codes = encode_segments(ids, np.array([s.id for s in kept]))
            inclusive = boxes - np.array([0, 0, 1, 1], np.float32)
            return CompactMask.from_coco_rle([code for code, _ in codes], inclusive, ids.shape)
    masks = np.zeros((len(kept), *ids.shape), bool)
    for mask, segment in zip(masks, kept):
        x, y, width, height = segment.bbox
        part = slice(y, y + height), slice(x, x + width)
        mask[part] = ids[part] == segment.id
    return masks
