"""Outlines as annotation files give them, checked: polygons, boxes and ellipses as arrays of points."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError

_NOT_NUMBERS = frozenset(("NaN", "Infinity", "-Infinity"))


def polygon(values: Any, least: int = 3) -> NDArray[np.float64]:
    """Points (N, 2) of x, y from `[x1, y1, x2, y2, …]` or `[[x1, y1], …]`; a repeated last point is dropped.

    Args:
        values: of an annotation file, of any type.
        least: how many points there must be.

    Raises:
        DataError: `bad-polygon`: too few points, an odd number of values, or not all are finite numbers.
    """
    try:
        points = np.array(values)
        if points.dtype.kind in "US":
            texts = {v for v in np.ravel(np.array(values, object)) if isinstance(v, str)}
            if not texts <= _NOT_NUMBERS:
                raise DataError("the coordinates are text, not numbers", kind="bad-polygon")
            points = np.full(2, np.nan)
        points = points.astype(np.float64)
    except (TypeError, ValueError):
        raise DataError("the coordinates are not a list of numbers", kind="bad-polygon") from None
    if points.ndim == 1 and points.size % 2:
        raise DataError(f"{points.size} coordinates, an odd number", kind="bad-polygon")
    if points.ndim not in (1, 2) or (points.ndim == 2 and points.shape[1] != 2):
        raise DataError("the coordinates are not pairs of x and y", kind="bad-polygon")
    points = points.reshape(-1, 2)
    if not np.isfinite(points).all():
        raise DataError("a coordinate is NaN or infinite", kind="bad-polygon")
    if len(points) > 1 and (points[0] == points[-1]).all():
        points = points[:-1]
    if len(points) < least:
        raise DataError(f"a polygon of {len(points)} points; it needs {least}", kind="bad-polygon")
    return points


def box(x: float, y: float, width: float, height: float) -> NDArray[np.float64]:
    """The four corners of a box.

    Raises:
        DataError: `bad-polygon`, as `polygon`.
    """
    polygon([x, y, width, height], 1)
    return np.array([[x, y], [x + width, y], [x + width, y + height], [x, y + height]])


def ellipse(
    x: float, y: float, x_radius: float, *, y_radius: float, angle: float = 0.0
) -> NDArray[np.float64]:
    """A polygon that an ellipse's outline differs from by less than a tenth of a pixel.

    Args:
        x, y: of the middle.
        x_radius, y_radius: in pixels.
        angle: by which it is turned clockwise, in degrees.

    Raises:
        DataError: `bad-polygon`, as `polygon`.
    """
    polygon([x, y, x_radius, y_radius, angle, 0.0], 1)
    count = int(np.clip(8 * np.sqrt(max(abs(x_radius), abs(y_radius), 1)), 16, 720))
    turn = np.linspace(0, 2 * np.pi, count, endpoint=False)
    along, across = x_radius * np.cos(turn), y_radius * np.sin(turn)
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    return np.stack([x + cos * along - sin * across, y + sin * along + cos * across], 1)
