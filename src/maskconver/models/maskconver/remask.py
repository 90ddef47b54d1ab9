"""ReMask and ReClass for MaskConver, which neither paper has: centres take the place of queries (ours)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..batch import MaskTargets
from ..layers import full_precision
from ..remax import ETA, SEMANTIC_WEIGHT, SemanticBranch, branch_loss, class_overlap, soften
from .model import MaskConver
from .peaks import at_cells


class Relaxation(NamedTuple):
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

    def __init__(self, model: MaskConver) -> None:
        super().__init__()
        config = model.config
        self.branch = SemanticBranch(
            config.embedding_dim, model.num_classes, True, momentum=config.bn_momentum
        )

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
        cells: n×3 int64 (index of the level, y, x).
    """
    return at_cells(heatmaps, image, cells).float().sigmoid()


@torch.no_grad()
def class_cover(
    embeddings: Tensor, basis: Tensor, counts: Tensor, *, masks: MaskTargets, num_classes: int
) -> Tensor:
    """Equation 3 for masks `embeddings · basis` at their own stride: which share of a class each covers.

    Args:
        embeddings: n×D, of the images in order.
        basis: B×D×h×w.
        counts: (B,) masks of each image.
        masks: the ground truth on the same grid.
        num_classes: C.

    Returns:
        n×C in 0…1; 0 of absent classes.
    """
    parts = [embeddings.new_zeros(0, num_classes)]
    for own, features, owner, labels in zip(
        embeddings.split(counts.tolist()), basis, masks.owner, masks.labels
    ):
        drawn = torch.einsum("nd,dhw->nhw", own, features).sigmoid()
        truth = MaskTargets(owner[None], labels[None])
        parts.append(class_overlap(drawn[None], truth, num_classes)[0])
    return torch.cat(parts)


def soften_centers(heatmap: Tensor, image: Tensor, yx: Tensor, cover: Tensor) -> Tensor:
    """Equation 4 on a heatmap: at a mask's centre, the classes it also covers are η y_m and not 0.

    The penalty-reduced focal loss takes a target below 1 as a negative of less weight, (1 - target)⁴; the
    mask's own class stays at 1, and the Gaussian of a neighbour where it is larger.

    Args:
        heatmap: B×C×h×w targets in 0…1.
        image: (n,) int64.
        yx: n×2 int64 cells.
        cover: n×C, y_m, see `class_cover`.
    """
    h, w = heatmap.shape[-2:]
    flat = heatmap.permute(0, 2, 3, 1).reshape(-1, heatmap.shape[1])
    cell = (image * h + yx[:, 0]) * w + yx[:, 1]
    soft = soften((flat[cell] == 1).to(flat.dtype), cover.to(flat.dtype), ETA)
    flat = flat.scatter_reduce(0, cell[:, None].expand_as(soft), soft, "amax")
    return flat.view(len(heatmap), h, w, -1).permute(0, 3, 1, 2)
