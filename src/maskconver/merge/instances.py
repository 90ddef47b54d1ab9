"""Instances from scored masks: the best (mask, class) pairs, which may overlap.

The rule with which mask classification models are judged by mask AP: `instance_inference` of
facebookresearch/Mask2Former (arXiv 2112.01527). Panoptic segments give a mask one class and a pixel one
owner; here a mask may answer for several classes, and its pixels for several masks.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..core.config import PostprocessConfig
from ..core.proposals import Proposals
from ..core.segmentation import Instances
from .semantic import class_probabilities, mask_bands

TOP = 100  # pairs of an image, as in COCO's mask AP
SURE = 0.5  # probability above which a pixel is the mask's


def instances(
    proposals: Proposals,
    config: PostprocessConfig,
    is_thing: NDArray[np.bool_],
    *,
    top: int = TOP,
    output_size: tuple[int, int] | None = None,
) -> list[Instances]:
    """The best pairs of a mask and a class of each image of a batch.

    Of all N×C pairs those with the `top` largest class probabilities are taken, and stuff is left out of
    them afterwards. A mask is where its probability exceeds 0.5; a pair's score is the class probability
    times the mean mask probability there.

    Args:
        proposals: B×N scored masks, NumPy or torch; see `semantic_maps` for the class probabilities.
        config: its rule and `mask_activation` say how logits become mask probabilities.
        is_thing: (C,) bool by label.
        top: pairs of an image.
        output_size: see `semantic_maps`.

    Returns:
        The pairs of each image, highest score first; those without a pixel are left out.

    Raises:
        MaskconverError: NaN or infinite scores or logits.
    """
    arrays = proposals.numpy()
    return [_of_image(arrays, i, config, is_thing, top=top, size=output_size) for i in range(len(arrays))]


def _of_image(
    proposals: Proposals,
    index: int,
    config: PostprocessConfig,
    is_thing: NDArray[np.bool_],
    *,
    top: int,
    size: tuple[int, int] | None,
) -> Instances:
    classes = class_probabilities(proposals, index, len(is_thing))
    best = np.argsort(-classes.ravel(), kind="stable")[:top]
    queries, labels = np.divmod(best, len(is_thing))
    found = classes[queries, labels]
    told = is_thing[labels] & (found > 0)
    queries, labels, found = queries[told], labels[told], found[told]
    chosen, place = np.unique(queries, return_inverse=True)
    parts, width, area, total = [], 0, np.zeros(len(chosen), np.int64), np.zeros(len(chosen))
    for values in mask_bands(proposals, index, config, output_size=size):
        part = values[chosen]
        sure = part > np.float32(SURE)
        parts.append(np.packbits(sure, axis=2))  # an eighth of the memory until all is known
        width = sure.shape[2]
        area += sure.sum((1, 2))
        total += np.where(sure, part, 0).sum((1, 2), dtype=np.float64)
    scores = (found * (total / np.maximum(area, 1))[place]).astype(np.float32)
    order = np.argsort(-scores, kind="stable")
    order = order[area[place[order]] > 0]
    masks, row = np.empty((len(order), sum(p.shape[1] for p in parts), width), bool), 0
    for part in parts:
        rows = slice(row, row := row + part.shape[1])
        masks[:, rows] = np.unpackbits(part[place[order]], axis=2, count=width)
    return Instances(masks, labels[order].astype(np.int64), scores[order])
