"""A segmentation in the forms that other programs take: tables, GeoJSON, supervision's detections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, MaskconverError
from .categories import Categories
from .polygons import Polygon, ids_to_polygons
from .rle import encode_segments
from .segments import Runs, Segment, lookup

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
    runs, count = Runs.of(ids), len(segments)
    row = lookup(runs.ids, [s.id for s in segments], np.arange(count), count)

    def totals(values: NDArray[Any]) -> NDArray[np.float64]:
        return np.bincount(row, values, count + 1)[:count]

    area = totals(runs.length)
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
    columns["centroid_x"] = totals(runs.length * (runs.x + runs.length / 2)) / pixels
    columns["centroid_y"] = totals(runs.length * (runs.y + 0.5)) / pixels
    if pixel_size is not None:
        columns["area_physical"] = area * pixel_size**2
        for name in ("bbox_width", "bbox_height", "centroid_x", "centroid_y"):
            columns[f"{name}_physical"] = columns[name] * pixel_size
    if intensity is not None:
        if intensity.shape[:2] != ids.shape or intensity.ndim > 3:
            raise DataError(
                f"the intensity image has shape {intensity.shape}, the result {ids.shape}; give H×W or H×W×C"
            )
        starts = runs.y * ids.shape[1] + runs.x
        channels = intensity[..., None] if intensity.ndim == 2 else intensity
        for c in range(channels.shape[2]):
            sums = np.add.reduceat(np.ascontiguousarray(channels[..., c]).ravel(), starts, dtype=np.float64)
            name = "mean_intensity" if intensity.ndim == 2 else f"mean_intensity_{c}"
            columns[name] = totals(sums) / pixels
    return columns


def geojson(
    ids: NDArray[np.integer],
    segments: Sequence[Segment],
    categories: Categories,
    *,
    pixel_size: float | None = None,
) -> dict[str, Any]:
    """A GeoJSON FeatureCollection as QuPath reads it: a feature for each segment with pixels.

    Things are QuPath's detections, stuff its annotations. Coordinates are pixels, (0, 0) being the upper left
    corner of the image, and exact: filling the polygons gives back the mask.

    Args:
        ids, segments, categories: of a `Segmentation`.
        pixel_size: as of `table`; adds the physical measurements.
    """
    polygons, columns = ids_to_polygons(ids), table(ids, segments, pixel_size=pixel_size)
    names = [n for n in columns if n in ("id", "score", "area") or n.startswith("centroid") or "_phys" in n]
    rows = zip(*(np.round(columns[name], 5).tolist() for name in names))
    features = [
        {
            "type": "Feature",
            "geometry": _geometry(polygons[segment.id]),
            "properties": {
                "objectType": "detection" if segment.is_thing else "annotation",
                "classification": {
                    "name": segment.category,
                    "color": list(categories[segment.label].color),
                },
                "measurements": dict(zip(names, row)),
            },
        }
        for segment, row in zip(segments, rows)
        if segment.id in polygons
    ]
    return {"type": "FeatureCollection", "features": features}


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
            inclusive = boxes - np.float32([0, 0, 1, 1])
            return CompactMask.from_coco_rle([code for code, _ in codes], inclusive, ids.shape)
    masks = np.zeros((len(kept), *ids.shape), bool)
    for mask, segment in zip(masks, kept):
        x, y, width, height = segment.bbox
        part = slice(y, y + height), slice(x, x + width)
        mask[part] = ids[part] == segment.id
    return masks
