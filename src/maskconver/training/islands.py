"""Islands of a stuff class: the regions that get a centre each (reference page §4, *Stuff*)."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

DILATION = 61  # three max pools of 21, stride 1: 30 px each way


def stuff_islands(
    mask: NDArray[np.bool_],
    k: int,
    dilation: Literal["2d", "reference", "none"] = "2d",
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
