"""From proposals to one label a pixel: one rule a family, each `(Proposals, config) -> Segmentation`."""

from __future__ import annotations

from dataclasses import replace

from ..core.categories import Categories
from ..core.config import PostprocessConfig
from ..core.proposals import Proposals
from ..core.segmentation import Segmentation
from ..errors import ConfigError
from .kmax import merge_kmax
from .maskconver import merge_masks, output_taps

__all__ = ["postprocess"]


def postprocess(
    proposals: Proposals,
    config: PostprocessConfig,
    categories: Categories,
    *,
    output_size: tuple[int, int] | None = None,
) -> list[Segmentation]:
    """The segmentation of every image of a batch.

    Args:
        proposals: B × N scored masks, NumPy or torch. With a geometry the answer has the size of the original
            image, or the longer side `output_side` and its shape; without one that of the masks.
        config: rule and thresholds.
        categories: the label set the proposals' labels point into.
        output_size: (height, width) of the answer where it should be another one, e.g. the reference's padded
            evaluation canvas; pixels beyond the image then count as undecided.

    Returns:
        B segmentations.

    Raises:
        MaskconverError: NaN or infinite values, a label without category, a config or size without meaning.
    """
    config.check()
    if output_size is not None and min(output_size) < 1:
        raise ConfigError(f"output_size is height and width in pixels, at least 1 each, not {output_size}")
    if proposals.geometry and len(proposals.geometry) != len(proposals):
        raise ConfigError(f"{len(proposals)} images, but {len(proposals.geometry)} geometries")
    # A tensor on a GPU is merged on it, unless one of the ways that only the CPU has was asked for.
    there = config.rule == "maskconver" and config.mode == "fast"
    masks_there = there and getattr(proposals.mask_logits, "is_cuda", False)
    arrays = (replace(proposals, mask_logits=None) if masks_there else proposals).numpy()
    all_masks = proposals.mask_logits if masks_there else arrays.mask_logits
    results = []
    for i, (scores, labels, masks) in enumerate(zip(arrays.scores, arrays.labels, all_masks)):
        geometry = arrays.geometry[i].of_side(config.output_side) if arrays.geometry else None
        if config.rule == "kmax":
            ids, first = merge_kmax(scores, labels, masks, categories.is_thing, geometry, config, output_size)
        else:
            taps = output_taps(masks.shape[-2:], geometry, output_size)
            ids, first = merge_masks(scores, labels, masks, categories.is_thing, taps, config)
        results.append(Segmentation.from_ids(ids, categories, labels=labels[first], scores=scores[first]))
    return results
