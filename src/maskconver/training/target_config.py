"""How annotation becomes training targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass
class TargetConfig:
    """Defaults are ours; the published recipes set the reference's (design: table of defaults).

    Attributes:
        center: a thing's centre: of its `box`, the mean of its `mask`'s pixels, or the `image`'s.
        stuff: centres of a stuff class: of its largest `islands`, one for the class (`global`), or the
            `image`'s.
        islands: k, how many islands of a stuff class get a centre.
        islands_dilation: how far apart pixels still belong to one island: `2d` dilates by 30 px each way (the
            paper); `reference` along x only (the code); `none`.
        islands_min_area: islands of fewer pixels get no centre.
        island_mask: the mask a stuff centre must predict: the whole `class` region or its `island`.
        max_segments: targets an image may have for the mask losses; the heatmap always has all.
        order: which are kept beyond the cap: the `largest`, or the first in `reference` order.
        ignore_void: void and crowd pixels count in no loss; false makes them background as the reference
            does.
        min_iou: overlap that fixes the radius of a centre's Gaussian.
    """

    center: Literal["box", "mask", "image"] = "box"
    stuff: Literal["islands", "global", "image"] = "islands"
    islands: int = 3
    islands_dilation: Literal["2d", "reference", "none"] = "2d"
    islands_min_area: int = 0
    island_mask: Literal["class", "island"] = "class"
    max_segments: int = 100
    order: Literal["largest", "reference"] = "largest"
    ignore_void: bool = True
    min_iou: float = 0.7
