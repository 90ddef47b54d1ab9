"""Opens a data set by its folder."""

from __future__ import annotations

import os
from typing import Any

from ..io.images import MAX_PIXELS
from .dataset import PanopticDataset
from .layout import DataPaths, LabelLayout, find_layout


def open_dataset(
    data: str | os.PathLike[str] | None,
    split: str | None = None,
    paths: DataPaths | None = None,
    *,
    max_pixels: int = MAX_PIXELS,
    white_level: float | None = None,
    channels: int = 3,
    bits: int = 8,
    **files: str | os.PathLike[str] | None,
) -> PanopticDataset:
    """Open a split of a data set by its folder; see `find_layout` for the layouts that are recognised.

    Example:
        >>> import maskconver as mc
        >>> data = mc.data.open_dataset("my_data", "val")
        >>> len(data), data.sample(0).ids.shape
        (2, (64, 96))

    Args:
        data: the folder of the data set; None when all files are given.
        split: `train`, `val`, …; may be left out where there is only one.
        paths: files that lie elsewhere.
        max_pixels, white_level, channels, bits: as in `read_image`.
        files: fields of `DataPaths` by name: `images`, `panoptic_json`, `panoptic_pngs`, `labels`, `classes`.

    Returns:
        A `CocoPanoptic` or a `LabelFolder`.

    Raises:
        DataError: what was looked for and not found, or what is wrong with the annotation.
    """
    from .coco import CocoPanoptic
    from .label_folder import LabelFolder

    layout = find_layout(data, split, DataPaths.of(paths, **files))
    limits: dict[str, Any] = {"max_pixels": max_pixels, "white_level": white_level, "channels": channels}
    limits["bits"] = bits
    if isinstance(layout, LabelLayout):
        return LabelFolder(layout.images, layout.labels, layout.classes, **limits)
    return CocoPanoptic(layout.images, layout.panoptic_json, layout.panoptic_pngs, **limits)
