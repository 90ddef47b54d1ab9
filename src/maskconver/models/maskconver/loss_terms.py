"""Mask losses from per-mask sums, so that N full masks never exist together.

The terms named after the reference are those of tensorflow/models, official/projects/maskconver.
"""

from __future__ import annotations

import math
from itertools import repeat
from typing import Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..remax import relax, semantic_gate
from .remask import Relaxation


def world_size() -> int:
    """Number of training processes; 1 without distributed training."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_processes(value: Tensor) -> Tensor:
    """The sum of a value over all processes, without gradient; the value itself in a single process.

    A loss divided by (this sum / `world_size()`) is normalised over the whole batch once gradients are
    averaged over processes.
    """
    value = value.detach()
    if world_size() > 1:
        value = value.clone()
        dist.all_reduce(value)
    return value


CenterLoss = Literal["focal", "quality"]
ALPHA, BETA, CLIP = 2, 4, 1e-4


def focal_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Element-wise loss: `-(1-p)² log p` where the target is exactly 1, else `-(1-t)⁴ p² log(1-p)`.

    Args:
        logits: any shape, float; p = sigmoid clipped to 1e-4…1-1e-4 (no gradient where clipped).
        targets: the same shape in 0…1.
    """
    p = logits.float().sigmoid().clamp(CLIP, 1 - CLIP)
    positive = -((1 - p) ** ALPHA) * p.log()
    negative = -((1 - targets) ** BETA) * p**ALPHA * (1 - p).log()
    return torch.where(targets == 1, positive, negative)


def quality_focal_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Element-wise `|t-p|² BCE(p, t)` (arXiv 2006.04388 eq. 4): every cell learns the value of its target.

    Args:
        logits: any shape, float.
        targets: the same shape in 0…1.
    """
    logits = logits.float()
    bce = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return (targets - logits.sigmoid()) ** 2 * bce


def center_sums(logits: Tensor, targets: Tensor, valid: Tensor, *, kind: CenterLoss = "focal") -> Tensor:
    """(B,) centre loss of each image, summed over valid cells and classes.

    Args:
        logits, targets: B×C×h×w.
        valid: bool, broadcasts to B×C×h×w.
        kind: the loss of an element.
    """
    loss = focal_loss if kind == "focal" else quality_focal_loss
    return (loss(logits, targets) * valid).sum((1, 2, 3))


def semantic_head_loss(logits: Tensor, semantic: Tensor, *, balance: float = 0.0) -> Tensor:
    """Cross-entropy of the labelled cells plus soft dice of the classes in the batch (ours).

    With `balance` b, a cell weighs w = n^-b in the cross-entropy, n being the cells of its class in the
    batch. That alone would make the predicted probability of a class w times too large. So both losses see
    the logits plus log w, and what the network says itself stays the probability of the class (as in logit
    adjustment, arXiv 2007.07314, section 4). A class that is not in the batch counts as its rarest one.

    Args:
        logits: B×C×h×w float32; enlarged bilinearly to a finer target.
        semantic: B×h'×w' int64, -1 is void.
        balance: b, 0 gives all cells the same weight, 1 all classes.
    """
    if logits.shape[-2:] != semantic.shape[-2:]:
        logits = F.interpolate(logits, semantic.shape[-2:], mode="bilinear", align_corners=False)
    labelled = semantic >= 0
    classes = torch.arange(logits.shape[1], device=logits.device)[:, None, None]
    targets = (semantic[:, None] == classes).to(logits.dtype)
    area = targets.sum((0, 2, 3))
    everywhere = sum_over_processes(area)
    rarest = everywhere.masked_fill(everywhere == 0, math.inf).amin().clamp(max=everywhere.sum() + 1)
    weights = everywhere.clamp(min=1).maximum(rarest) ** -balance
    logits = logits + weights.log()[:, None, None]
    count = (weights * everywhere).sum().clamp(min=torch.finfo(logits.dtype).tiny) / world_size()
    entropy = F.cross_entropy(logits, semantic, weights, ignore_index=-1, reduction="sum") / count
    p = logits.softmax(1) * labelled[:, None]
    shared, whole = (v.sum((0, 2, 3)) for v in (p * targets, p + targets))
    dice = 1 - (2 * shared + 1) / (whole + 1)
    present = area > 0
    return entropy + (dice * present).sum() / present.sum().clamp(min=1)


CHUNK_PIXELS = 1 << 21  # mask pixels a chunk: 8 MB of float32 for each of a handful of intermediates


def mask_sums(logits: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
    """What every mask loss is made of, for n masks.

    Args:
        logits: n×h×w float32.
        targets: n×h×w bool.
        valid: h×w (or n×h×w) bool; other pixels count nowhere.

    Returns:
        (n, 5): sum of BCE, of p·t, of p, of t, and the number of valid pixels.
    """
    weight = valid.to(logits.dtype).expand_as(logits)
    target = targets.to(logits.dtype) * weight
    p = logits.sigmoid() * weight
    bce = (F.softplus(logits) * weight - logits * target).sum((1, 2))
    return torch.stack(
        [bce, (p * target).sum((1, 2)), p.sum((1, 2)), target.sum((1, 2)), weight.sum((1, 2))], 1
    )


def chunked_mask_sums(
    embeddings: Tensor,
    basis: Tensor,
    region: Tensor,
    *,
    regions: Tensor,
    valid: Tensor,
    relaxation: Relaxation | None = None,
) -> Tensor:
    """`mask_sums` of one image's masks `embeddings · basis`, resized bilinearly to the size of `regions`.

    Memory holds one chunk of masks at a time, in the backward pass too (chunks are recomputed there).

    Args:
        embeddings: n×D.
        basis: D×h×w mask features.
        region: (n,) the target's value in `regions`.
        regions: H×W int32.
        valid: H×W bool.
        relaxation: relaxes the masks (equations 1 and 2 of ReMaX); of n masks and one image.
    """

    def sums(e: Tensor, r: Tensor, classes: Tensor | None, features: Tensor) -> Tensor:
        logits = torch.einsum("nd,dhw->nhw", e, features)
        if relaxation is not None and classes is not None:
            logits = relax(logits, semantic_gate(relaxation.semantic, classes[None])[0])
        if logits.shape[-2:] != regions.shape:
            logits = F.interpolate(logits[None], regions.shape, mode="bilinear", align_corners=False)[0]
        return mask_sums(logits, regions == r[:, None, None], valid)

    step = max(CHUNK_PIXELS // regions.numel(), 1)
    classes = repeat(None) if relaxation is None else relaxation.classes.split(step)
    parts = [
        checkpoint(sums, e, r, c, basis, use_reentrant=False, preserve_rng_state=False)
        for e, r, c in zip(embeddings.split(step), region.split(step), classes)
    ]
    return torch.cat(parts)


def pixel_bce(sums: Tensor) -> Tensor:
    """The reference's BCE: summed over all masks, divided by (their valid pixels + 1)."""
    pixels = sum_over_processes(sums[:, 4].sum())
    return sums[:, 0].sum() * world_size() / (pixels + 1)


def object_bce(sums: Tensor) -> Tensor:
    """Mean over masks of their BCE divided by (the target's area + 16 pixels): objects weigh alike (ours).

    The 16 keep a sliver at the edge of a crop from outweighing whole objects.
    """
    return _mean_over_masks(sums[:, 0] / (sums[:, 3] + 16))


def joint_dice(sums: Tensor) -> Tensor:
    """The reference's adaptive dice over all masks of the replica: `1 - D·exp(1-D)`, D = 2I / (U + 1e-7).

    0 where there is no mask.
    """
    if not len(sums):
        return sums.sum()
    dice = 2 * sums[:, 1].sum() / (sums[:, 2].sum() + sums[:, 3].sum() + 1e-7)
    return 1 - dice * torch.exp(1 - dice)


def per_mask_dice(sums: Tensor) -> Tensor:
    """Mean over masks of `1 - (2I + 1) / (U + 1)` (V-Net's dice with DETR's smoothing)."""
    return _mean_over_masks(1 - (2 * sums[:, 1] + 1) / (sums[:, 2] + sums[:, 3] + 1))


def entry_bce(sums: Tensor, image: Tensor, normalizers: Tensor, *, pixels: int) -> Tensor:
    """The multi-scale reference's BCE: a mean over pixels, a normalised sum over masks, a mean over images.

    The mean is over all pixels of the grid; the sum over the masks of an image is divided by its normaliser.

    Args:
        sums: (n, 5), see `mask_sums`.
        image: (n,) int64.
        normalizers: (B,).
        pixels: of the grid, padding included.
    """
    per_image = normalizers.new_zeros(len(normalizers)).index_add(0, image, sums[:, 0] / pixels)
    return (per_image / normalizers).mean()


def image_dice(sums: Tensor, image: Tensor, images: int) -> Tensor:
    """Mean over images of one joint dice over the masks of each."""
    return torch.stack([joint_dice(sums[image == i]) for i in range(images)]).mean()


def _mean_over_masks(losses: Tensor) -> Tensor:
    """The mean over the masks of all processes; 0 where there is none."""
    count = sum_over_processes(losses.new_tensor(float(len(losses))))
    return losses.sum() * world_size() / count.clamp(min=1)


BCE = {"pixel": pixel_bce, "object": object_bce}
DICE = {"joint": joint_dice, "per_mask": per_mask_dice}
BCEName = Literal["pixel", "object", "entry"]
DiceName = Literal["joint", "per_mask", "image", "none"]
