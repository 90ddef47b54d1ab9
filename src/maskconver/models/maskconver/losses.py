"""The weighted sum MaskConver is trained with (mobile page §5, *Total*; multi-scale page §3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..batch import Batch
from ..kmax.targets import mask_targets
from ..layers import full_precision
from .loss_terms import (
    BCE,
    DICE,
    BCEName,
    DiceName,
    center_sums,
    chunked_mask_sums,
    entry_bce,
    image_dice,
    sum_over_processes,
    world_size,
)
from .model import Maps
from .multiscale import CenterModel, PyramidMaps
from .remask import Gate, SemanticRelaxation, center_classes, class_cover, soften_centers
from .targets import assign_levels, center_cells, center_heatmaps


@dataclass
class LossConfig:
    """Defaults are ours; the published recipes set the reference's.

    Attributes:
        center_weight: λ of the centre loss.
        mask_weight: λ of the mask BCE.
        dice_weight: λ of the dice loss.
        normalizer: the centre loss (and the BCE by `entry`) of an image is divided by the masks of that
            `image` + 1 (mobile), or by their mean over the `batch` of all processes + 1 (multi-scale).
        bce: `pixel` weighs every pixel alike (mobile reference), `object` every object, `entry` every mask
            with its share of the canvas (multi-scale reference).
        dice: `per_mask`, `joint` over the whole batch (mobile reference), joint over each `image`
            (multi-scale), or `none` (semantic recipes).
        mask_loss_stride: pixels of the canvas a cell of the mask losses stands for; 1 as the published mobile
            recipes, 2 as the multi-scale ones.
        centers: where the embedding of a mask is read in training: at the `truth`, or at the `predicted`
            centre, the cell within the mask where the network is surest of its class.
        remask: relax masks and classes as ReMaX does, by a semantic branch that only training has (ours; see
            `losses.remask`).
    """

    center_weight: float = 1.0
    mask_weight: float = 5.0
    dice_weight: float = 5.0
    normalizer: Literal["image", "batch"] = "image"
    bce: BCEName = "pixel"
    dice: DiceName = "per_mask"
    mask_loss_stride: int = 4
    centers: Literal["truth", "predicted"] = "truth"
    remask: bool = False


def nearest(maps: Tensor, stride: int, size: tuple[int, int] | None = None) -> Tensor:
    """Every `stride`-th value of B×H×W maps from the middle of its cell: index floor((i + 0.5)·stride).

    Args:
        maps: B×H×W.
        stride: pixels a cell.
        size: (h, w) cells of the result where strides do not divide the sides: a cell whose middle lies
            beyond the edge reads the last pixel, one that lies beyond it whole is 0.
    """
    if size is None:
        return maps[:, stride // 2 :: stride, stride // 2 :: stride]
    for dim, n in ((1, size[0]), (2, size[1])):
        cells, last = torch.arange(n, device=maps.device) * stride, maps.shape[dim] - 1
        inside = (cells <= last).view(-1, 1) if dim == 1 else cells <= last
        maps = maps.index_select(dim, (cells + stride // 2).clamp(max=last)) * inside
    return maps


def predicted_cells(logits: Tensor, image: Tensor, labels: Tensor, inside: Tensor, cells: Tensor) -> Tensor:
    """The cell of each mask where the heatmap of its class is highest.

    Args:
        logits: B×C×h×w.
        image, labels: (n,) int64.
        inside: n×h×w bool, the cells of each mask.
        cells: (n, 2) int64, the answer for masks without any cell.
    """
    width = logits.shape[-1]
    best = logits[image, labels].masked_fill(~inside, -torch.inf).flatten(1).argmax(1)
    found = torch.stack([best.div(width, rounding_mode="floor"), best % width], 1)
    return torch.where(inside.flatten(1).any(1)[:, None], found, cells)


def maskconver_losses(
    model: CenterModel,
    maps: Maps | PyramidMaps,
    batch: Batch,
    config: LossConfig,
    min_iou: float = 0.7,
    relaxation: SemanticRelaxation | None = None,
) -> dict[str, Tensor]:
    """The loss terms, each weighted already; their sum is what training minimises. Computed in float32.

    Args:
        model: whose levels, embeddings and MLP are used.
        maps: `model(batch.images)`.
        batch: images of B×C×H×W. Where `model.stride` divides H and W, masks lie exactly on their pixels,
            otherwise they are off by less than a cell at the far edges.
        config: weights and kinds.
        min_iou: of the Gaussians.
        relaxation: relaxes masks and classes; None for neither.

    Returns:
        `center`, `mask`, (unless `none`) `dice` and, of a relaxation, `remask`, scalars.
    """
    heatmaps = maps.heatmap_logits if isinstance(maps, PyramidMaps) else (maps.heatmap_logits,)
    # What lies beyond the canvas the network padded itself: no target there.
    height, width = (-(-n // model.stride) for n in batch.images.shape[-2:])
    if relaxation is not None:
        classes_of_pixels = mask_targets(batch, (height, width)).semantic
        semantic, branch = relaxation(maps.mask_features[..., :height, :width], classes_of_pixels)
    with full_precision(heatmaps[0].device.type):
        rows, level = assign_levels(batch.boxes, batch.batch, model.level_ranges)
        centers = _cells(heatmaps, model.levels, batch, rows, level, config.centers)
        keep = batch.keep[rows]
        masked, cells = rows[keep], centers[keep]
        image = batch.batch[masked]
        counts = torch.bincount(image, minlength=len(batch))
        normalizers = (counts if config.normalizer == "image" else _global_mean(counts)) + 1

        embeddings = model.mask_embeddings(
            _float(maps.embedding_map),  # type: ignore[arg-type]
            image,
            cells if isinstance(maps, PyramidMaps) else cells[:, 1:],
            batch.labels[masked],
        )
        basis = model.mask_basis(maps.mask_features.float())[..., :height, :width]
        cover = gate = None
        if relaxation is not None:
            gate = Gate(center_classes(heatmaps, image, cells), semantic)
            cover = basis.new_zeros(len(rows), model.num_classes)
            cover[keep] = class_cover(embeddings, basis, counts, classes_of_pixels, model.num_classes)
        center = _center_sums(heatmaps, model.levels, batch, rows, level, centers, min_iou, cover)
        terms = {"center": config.center_weight * (center / normalizers).mean()}

        regions = nearest(batch.regions, config.mask_loss_stride)
        valid = nearest(batch.valid, config.mask_loss_stride)
        sums = _mask_sums(embeddings, basis, batch.region[masked], counts, regions, valid, gate)
        # A segment that falls between the cells of the loss's stride has no target; an empty mask it is not.
        seen = sums[:, 3] > 0
        sums, image = sums[seen], image[seen]
        if config.bce == "entry":
            mask = entry_bce(sums, image, normalizers.float(), regions[0].numel())
        else:
            mask = BCE[config.bce](sums)
        terms["mask"] = config.mask_weight * mask
        if config.dice == "image":
            terms["dice"] = config.dice_weight * image_dice(sums, image, len(batch))
        elif config.dice != "none":
            terms["dice"] = config.dice_weight * DICE[config.dice](sums)
    if relaxation is not None:
        terms["remask"] = branch
    return terms


def _cells(
    heatmaps: tuple[Tensor, ...],
    levels: tuple[int, ...],
    batch: Batch,
    rows: Tensor,
    level: Tensor,
    where: str,
) -> Tensor:
    """(m, 3) the cell (index of the level, y, x) of each of `rows`."""
    cells = torch.stack([level, torch.zeros_like(level), torch.zeros_like(level)], 1)
    for index, (logits, exponent) in enumerate(zip(heatmaps, levels)):
        stride, size = 1 << exponent, (logits.shape[-2], logits.shape[-1])
        here = (level == index).nonzero()[:, 0]
        own = rows[here]
        image = batch.batch[own]
        yx = center_cells(batch.centers[own], stride, size)
        if where == "predicted":
            inside = nearest(batch.regions, stride, size)[image] == batch.region[own][:, None, None]
            yx = predicted_cells(logits.detach(), image, batch.labels[own], inside, yx)
        cells[here, 1:] = yx
    return cells


def _center_sums(
    heatmaps: tuple[Tensor, ...],
    levels: tuple[int, ...],
    batch: Batch,
    rows: Tensor,
    level: Tensor,
    cells: Tensor,
    min_iou: float,
    cover: Tensor | None,
) -> Tensor:
    """(B,) focal sums over all levels; of a relaxation, `cover` (m×C) softens the targets at the cells."""
    total = torch.zeros(len(batch), device=rows.device)
    for index, (logits, exponent) in enumerate(zip(heatmaps, levels)):
        stride, (b, c, h, w) = 1 << exponent, logits.shape
        here = (level == index).nonzero()[:, 0]
        boxes, centers, labels, image = (
            v[rows[here]] for v in (batch.boxes, batch.centers, batch.labels, batch.batch)
        )
        with torch.no_grad():
            targets = center_heatmaps(boxes, centers, labels, image, (b, c, h, w), stride, min_iou)
            if cover is not None:
                targets = soften_centers(targets, image, cells[here, 1:], cover[here])
        # A centre counts even where its cell is void, as in the hole of a ring or at the padding's edge.
        counted = nearest(batch.valid, stride, (h, w))[:, None] | (targets == 1)
        total = total + center_sums(logits, targets, counted)
    return total


def _mask_sums(
    embeddings: Tensor,
    basis: Tensor,
    region: Tensor,
    counts: Tensor,
    regions: Tensor,
    valid: Tensor,
    gate: Gate | None = None,
) -> Tensor:
    """(n, 5) `mask_sums` of all masks of the batch, `counts` of them in each image."""
    ends = counts.cumsum(0).tolist()
    sums = [
        chunked_mask_sums(
            embeddings[begin:end],
            basis[i],
            region[begin:end],
            regions[i],
            valid[i],
            None if gate is None else Gate(gate.classes[begin:end], gate.semantic[i : i + 1]),
        )
        for i, (begin, end) in enumerate(zip([0, *ends], ends))
        if end > begin
    ]
    if sums:
        return torch.cat(sums)
    # Without a single mask the sums are empty but still reach every parameter, as DDP wants.
    return embeddings.new_zeros(0, 5) + embeddings.sum() * 0 + basis.sum() * 0


def _global_mean(counts: Tensor) -> Tensor:
    """(B,) the mean of all processes' counts, for every image."""
    return (sum_over_processes(counts.float().sum()) / (len(counts) * world_size())).expand(len(counts))


def _float(maps: Tensor | tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
    return maps.float() if isinstance(maps, Tensor) else tuple(m.float() for m in maps)


class MaskConverCriterion(nn.Module):
    """`maskconver_losses` with the run's choices; with `remask` it has a semantic branch.

    Args:
        model: what it will judge.
        loss: weights and kinds.
        min_iou: of the Gaussians on the heatmap.
    """

    def __init__(self, model: CenterModel, loss: LossConfig, *, min_iou: float = 0.7) -> None:
        super().__init__()
        self.loss, self.min_iou = loss, min_iou
        self.relaxation = SemanticRelaxation(model) if loss.remask else None

    def forward(self, model: Any, output: Any, batch: Batch) -> dict[str, Tensor]:
        """The terms of a batch, each weighted already."""
        return maskconver_losses(model, output, batch, self.loss, self.min_iou, self.relaxation)
