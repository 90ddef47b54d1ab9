"""The weighted sum MaskConver is trained with (reference page §5, *Total*)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..data.batch import Batch
from ..models.layers import full_precision
from ..models.maskconver.model import Maps, MaskConver
from ..targets import center_cells, center_heatmaps
from .focal import center_loss
from .masks import BCE, DICE, BCEName, DiceName, chunked_mask_sums


@dataclass
class LossConfig:
    """Defaults are ours; the published recipes set the reference's.

    Attributes:
        center_weight: λ of the centre loss.
        mask_weight: λ of the mask BCE.
        dice_weight: λ of the dice loss.
        bce: `pixel` weighs every pixel alike (reference), `object` every object.
        dice: `per_mask`, `joint` over the whole batch (reference), or `none` (semantic recipes).
        mask_loss_stride: pixels of the canvas a cell of the mask losses stands for; 1 as the published mobile
            recipes.
    """

    center_weight: float = 1.0
    mask_weight: float = 5.0
    dice_weight: float = 5.0
    bce: BCEName = "pixel"
    dice: DiceName = "per_mask"
    mask_loss_stride: int = 4


def nearest(maps: Tensor, stride: int) -> Tensor:
    """Every `stride`-th value of B×H×W maps from the middle of its cell: index floor((i + 0.5)·stride)."""
    return maps[:, stride // 2 :: stride, stride // 2 :: stride]


def maskconver_losses(
    model: MaskConver, maps: Maps, batch: Batch, config: LossConfig, min_iou: float = 0.7
) -> dict[str, Tensor]:
    """The loss terms, each weighted already; their sum is what training minimises. Computed in float32.

    Args:
        model: whose embeddings and MLP are used.
        maps: `model(batch.images)`.
        batch: images of B×3×H×W with H and W multiples of `model.stride` and `mask_loss_stride`.
        config: weights and kinds.
        min_iou: of the Gaussians.

    Returns:
        `center`, `mask` and (unless `none`) `dice`, scalars.
    """
    with full_precision(maps.heatmap_logits.device.type):
        b, c, h, w = maps.heatmap_logits.shape
        with torch.no_grad():
            targets = center_heatmaps(
                batch.boxes, batch.centers, batch.labels, batch.batch, (b, c, h, w), model.stride, min_iou
            )
        keep = batch.keep
        image, labels, region = batch.batch[keep], batch.labels[keep], batch.region[keep]
        counts = torch.bincount(image, minlength=b)
        # A centre counts even where its cell is void, as in the hole of a ring or at the edge of the padding.
        counted = nearest(batch.valid, model.stride)[:, None] | (targets == 1)
        terms = {"center": config.center_weight * center_loss(maps.heatmap_logits, targets, counted, counts)}
        cells = center_cells(batch.centers[keep], model.stride, (h, w))
        embeddings = model.mask_embeddings(maps.embedding_map.float(), image, cells, labels)
        basis = model.mask_basis(maps.mask_features.float())
        regions, valid = (
            nearest(batch.regions, config.mask_loss_stride),
            nearest(batch.valid, config.mask_loss_stride),
        )
        ends = counts.cumsum(0).tolist()
        sums = [
            chunked_mask_sums(embeddings[begin:end], basis[i], region[begin:end], regions[i], valid[i])
            for i, (begin, end) in enumerate(zip([0, *ends], ends))
            if end > begin
        ]
        # Without a single mask the sums are empty but still reach every parameter, as DDP wants.
        all_sums = (
            torch.cat(sums) if sums else embeddings.new_zeros(0, 5) + embeddings.sum() * 0 + basis.sum() * 0
        )
        # A segment that falls between the cells of the loss's stride has no target; an empty mask it is not.
        all_sums = all_sums[all_sums[:, 3] > 0]
        terms["mask"] = config.mask_weight * BCE[config.bce](all_sums)
        if config.dice != "none":
            terms["dice"] = config.dice_weight * DICE[config.dice](all_sums)
    return terms
