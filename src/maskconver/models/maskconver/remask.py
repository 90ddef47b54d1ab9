"""ReMask and ReClass for MaskConver, which neither paper has: centres take the place of queries (ours)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..kmax.loss_terms import branch_loss
from ..layers import full_precision
from ..remax import SemanticBranch
from .multiscale import CenterModel

ETA, SEMANTIC_WEIGHT = 0.1, 0.5  # the paper's


class Gate(NamedTuple):
    """The two factors of equation 1, for n masks of B images.

    Attributes:
        classes: n×C, σ(p): how sure the heatmap is of each class at the mask's centre.
        semantic: B×C×h×w, σ(m_sem) of the pixels.
    """

    classes: Tensor
    semantic: Tensor


class SemanticRelaxation(nn.Module):
    """The training-only semantic branch on the mask features, m_sem; the criterion's, not the network's.

    Args:
        model: whose masks are relaxed.
    """

    def __init__(self, model: CenterModel) -> None:
        super().__init__()
        config = model.config
        self.branch = SemanticBranch(config.embedding_dim, model.num_classes, True, config.bn_momentum)

    def forward(self, mask_features: Tensor, semantic: Tensor) -> tuple[Tensor, Tensor]:
        """σ(m_sem), without gradient, and the branch's weighted loss.

        Args:
            mask_features: B×D×h×w.
            semantic: B×h×w int64 classes of the pixels, -1 is void.
        """
        logits = self.branch(mask_features)
        with full_precision(logits.device.type):
            logits = logits.float()
            return logits.detach().sigmoid(), SEMANTIC_WEIGHT * branch_loss(logits, semantic, "bce")


@torch.no_grad()
def center_classes(heatmaps: Sequence[Tensor], image: Tensor, cells: Tensor) -> Tensor:
    """σ(p) of n centres, n×C. No gradient: the heatmap stays what its own loss makes of it, a score.

    Args:
        heatmaps: B×C×h×w logits of every level.
        image: (n,) int64.
        cells: (n, 3) int64 (index of the level, y, x).
    """
    found = heatmaps[0].new_zeros(len(cells), heatmaps[0].shape[1], dtype=torch.float32)
    for index, logits in enumerate(heatmaps):
        here = (cells[:, 0] == index).nonzero()[:, 0]
        found[here] = logits[image[here], :, cells[here, 1], cells[here, 2]].float().sigmoid()
    return found


@torch.no_grad()
def class_cover(embeddings: Tensor, basis: Tensor, counts: Tensor, semantic: Tensor, classes: int) -> Tensor:
    """Equation 3 for masks `embeddings · basis` at their own stride: which share of a class each covers.

    Args:
        embeddings: n×D, of the images in order.
        basis: B×D×h×w.
        counts: (B,) masks of each image.
        semantic: B×h×w int64, -1 is void.
        classes: C.

    Returns:
        n×C in 0…1; 0 of absent classes.
    """
    parts = [embeddings.new_zeros(0, classes)]
    for own, features, labels in zip(embeddings.split(counts.tolist()), basis, semantic.flatten(1) + 1):
        masks = (own @ features.flatten(1)).sigmoid()
        sums = masks.new_zeros(len(masks) + 1, classes + 1)
        sums.index_add_(1, labels, torch.cat([masks, torch.ones_like(features.flatten(1)[:1])]))
        parts.append((sums[:-1] / sums[-1:].clamp(min=1))[:, 1:])
    return torch.cat(parts)


def soften_centers(targets: Tensor, image: Tensor, yx: Tensor, cover: Tensor) -> Tensor:
    """Equation 4 on a heatmap: at a mask's centre, the classes it also covers are η y_m and not 0.

    The penalty-reduced focal loss takes a target below 1 as a negative of less weight, (1 - target)⁴; the
    mask's own class stays at 1.

    Args:
        targets: B×C×h×w in 0…1.
        image: (n,) int64.
        yx: (n, 2) int64 cells.
        cover: n×C, see `class_cover`.
    """
    h, w = targets.shape[-2:]
    flat = targets.permute(0, 2, 3, 1).reshape(-1, targets.shape[1])
    cell = (image * h + yx[:, 0]) * w + yx[:, 1]
    flat = flat.scatter_reduce(0, cell[:, None].expand_as(cover), ETA * cover.to(flat.dtype), "amax")
    return flat.view(len(targets), h, w, -1).permute(0, 3, 1, 2)
