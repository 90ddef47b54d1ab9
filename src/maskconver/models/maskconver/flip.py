"""Test-time flips: an image and its mirror image, averaged before anything is decided (ours)."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.proposals import Proposals
from ..layers import pad_to_multiple
from ..topk import TopK, stable_topk
from .model import MaskConver
from .semantic import with_stuff

LEAST = 1e-12  # of a probability whose logarithm is taken


@torch.no_grad()
def predict_flipped(
    model: MaskConver, images: Tensor, proposals: int | None = None, *, topk: TopK = stable_topk
) -> Proposals:
    """As `MaskConver.predict`, from each image and its mirror image.

    Class heatmaps are averaged as probabilities, before peaks are taken. The mask logits of a peak are the
    mean of those that either image gives: from the embedding at the peak's cell, and at its mirror cell. The
    classes of a semantic head are averaged as probabilities.

    Args:
        model: in evaluation mode.
        images: B×C×H×W float, normalised.
        proposals: how many; the config's number where None.
        topk: how scores are ranked.
    """
    # Cells mirror onto cells where every level divides the sides.
    padded = pad_to_multiple(images, max(1 << max(model.levels), model.stride, model.multiple))
    plain, mirrored = model(padded), model(padded.flip(-1))
    pairs = zip(plain.heatmap_logits, mirrored.heatmap_logits)
    heatmaps = tuple(_mean(a.float().sigmoid(), b.float().sigmoid()).logit() for a, b in pairs)
    peaks = model.peaks(heatmaps, proposals, topk=topk)
    widths = torch.tensor([m.shape[-1] for m in heatmaps], device=images.device)
    level, y, x = peaks.cells.unbind(-1)
    across = peaks._replace(cells=torch.stack([level, y, widths[level] - 1 - x], -1))
    masks = _mean(model.masks_at(plain, peaks), model.masks_at(mirrored, across))
    height, width = (-(-n // model.stride) for n in images.shape[-2:])
    things = Proposals(peaks.scores, peaks.labels, masks[..., :height, :width])
    semantic = None
    if plain.semantic_logits is not None and mirrored.semantic_logits is not None:
        a, b = (maps.float().softmax(1) for maps in (plain.semantic_logits, mirrored.semantic_logits))
        semantic = _mean(a, b).clamp(min=LEAST).log()[..., :height, :width]
    return with_stuff(things, semantic, model.stuff_classes, topk=topk)


def _mean(plain: Tensor, mirrored: Tensor) -> Tensor:
    return (plain + mirrored.flip(-1)) / 2
