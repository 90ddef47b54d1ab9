"""Opens a data set by its folder."""

from __future__ import annotations

import os
from typing import Any

from ..io.images import MAX_PIXELS
from .dataset import PanopticDataset
from .layout import LabelLayout, find_layout


def open_dataset(
    data: str | os.PathLike[str] | None,
    split: str | None = None,
    *,
    images: str | os.PathLike[str] | None = None,
    panoptic_json: str | os.PathLike[str] | None = None,
    panoptic_pngs: str | os.PathLike[str] | None = None,
    labels: str | os.PathLike[str] | None = None,
    classes: str | os.PathLike[str] | None = None,
    max_pixels: int = MAX_PIXELS,
    white_level: float | None = None,
    channels: int = 3,
) -> PanopticDataset:
    """Open a split of a data set by its folder; see `find_layout` for the layouts that are recognised.

    Returns:
        A `CocoPanoptic` or a `LabelFolder`.

    Raises:
        DataError: what was looked for and not found, or what is wrong with the annotation.
    """
    from .coco import CocoPanoptic
    from .label_folder import LabelFolder

    layout = find_layout(
        data,
        split,
        images=images,
        panoptic_json=panoptic_json,
        panoptic_pngs=panoptic_pngs,
        labels=labels,
        classes=classes,
    )
    limits: dict[str, Any] = {"max_pixels": max_pixels, "white_level": white_level}
    dataset: PanopticDataset
    if isinstance(layout, LabelLayout):
        dataset = LabelFolder(layout.images, layout.labels, layout.classes, **limits)
    else:
        dataset = CocoPanoptic(layout.images, layout.panoptic_json, layout.panoptic_pngs, **limits)
    dataset.channels = channels
    return dataset
