"""The weighted sum MaskConver is trained with (arXiv 2312.06052, §3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ...errors import ConfigError
from ..batch import Batch
from ..layers import full_precision
from .loss_terms import (
    BCE,
    DICE,
    BCEName,
    CenterLoss,
    DiceName,
    center_sums,
    chunked_mask_sums,
    entry_bce,
    image_dice,
    semantic_head_loss,
    sum_over_processes,
    world_size,
)
from .model import Maps, MaskConver
from .remask import Relaxation, SemanticRelaxation, center_classes, class_cover, soften_centers
from .targets import Gaussian, Targets, center_targets


@dataclass
class LossConfig:
    """The loss terms of MaskConver. Defaults are ours; the published recipes have the reference's values.

    Attributes:
        center_weight: λ of the centre loss.
        mask_weight: λ of the mask BCE.
        dice_weight: λ of the dice loss.
        normalizer: what divides the centre loss (and the BCE by `entry`): the number of masks of the `image`
            + 1 (mobile), or the mean number over the `batch` of all processes + 1 (multi-scale).
        bce: what has the same weight: every `pixel` (mobile reference), every `object`, or every `entry`, a
            mask with its share of the network input (multi-scale reference).
        dice: one loss `per_mask`, one `joint` loss of the whole batch (mobile reference), one of each `image`
            (multi-scale), or `none` (semantic recipes).
        mask_loss_stride: the mask losses are computed at this stride, in pixels of the network input; 1 in
            the published mobile recipes, 2 in the multi-scale ones. A semantic head's loss, too, but at no
            coarser one than its cells.
        embedding_at: where the embedding of a mask is read in training. `center`: at its true centre.
            `surest`: at the cell of the mask with the highest score for its class. `random` (ours): at a
            random cell of the mask in the middle half of its box, so that a peak beside the centre also gives
            a good mask.
        center: the centre loss: `focal`, as published, or `quality` (ours), which learns the value of the
            target heatmap at every cell.
        semantic_weight: λ of the semantic head's loss, of models with `stuff: semantic`.
        semantic_balance: how much more the cells of rare classes weigh in that loss, 0…1; see
            `semantic_head_loss`.
        positive: cells of a thing's mask whose Gaussian has at least this value count as its centre. The
            centre loss is divided by their number. With 1, as published, only the centre's own cell counts.
        samples: the embedding of a thing is read at this many cells for the mask losses: its centre, and
            others drawn from the cells that count as a centre; 1 as published.
        remask: relax masks and classes as ReMaX does, with a semantic branch that exists only in training
            (ours).
    """

    center_weight: float = 1.0
    mask_weight: float = 5.0
    dice_weight: float = 5.0
    normalizer: Literal["image", "batch"] = "image"
    bce: BCEName = "pixel"
    dice: DiceName = "per_mask"
    mask_loss_stride: int = 4
    embedding_at: Literal["center", "surest", "random"] = "center"
    center: CenterLoss = "focal"
    semantic_weight: float = 1.0
    semantic_balance: float = 0.0
    positive: float = 1.0
    samples: int = 1
    remask: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.positive <= 1:
            raise ConfigError(
                f"loss.positive is {self.positive:g}; it must be above 0 and at most 1 (the centre alone)"
            )
        if not 0 <= self.semantic_balance <= 1:
            raise ConfigError(f"loss.semantic_balance is {self.semantic_balance:g}; it must be from 0 to 1")
        for name in ("samples", "mask_loss_stride"):
            if getattr(self, name) < 1:
                raise ConfigError(f"loss.{name} is {getattr(self, name)}; it must be 1 or more")
        if self.remask and (self.positive < 1 or self.samples > 1):
            raise ConfigError(
                "loss.remask relaxes one cell a mask: leave loss.positive and loss.samples at 1"
            )


class MaskConverCriterion(nn.Module):
    """The loss terms of a step; with `remask` it has a semantic branch, which is no part of the network.

    Args:
        model: what it will judge.
        loss: weights and kinds.
        min_iou: of the Gaussians on the heatmap, see `targets.gaussian_radius`.
        gaussian: how wide they are, see `targets.gaussian_sigmas`.
    """

    def __init__(
        self, model: MaskConver, loss: LossConfig, *, min_iou: float = 0.7, gaussian: Gaussian = "iou"
    ) -> None:
        super().__init__()
        self.loss, self.min_iou, self.gaussian = loss, min_iou, gaussian
        self.relaxation = SemanticRelaxation(model) if loss.remask else None

    def forward(
        self, model: MaskConver, output: Maps, batch: Batch, *, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """The terms of a batch, each weighted already; their sum is what training minimises.

        Args:
            model: whose output it is.
            output: `model(batch.images)`.
            batch: images and their annotation.
            generator: draws random centres and the cells of `samples`; PyTorch's own where None.

        Returns:
            See `maskconver_losses`.
        """
        shapes = [(m.shape[1], m.shape[2], m.shape[3]) for m in output.heatmap_logits]
        return maskconver_losses(
            model,
            output,
            self._targets(model, batch, shapes, semantic=output.semantic_logits is not None),
            config=self.loss,
            relaxation=self.relaxation,
            generator=generator,
        )

    def heatmaps(self, model: MaskConver, batch: Batch) -> tuple[Tensor, ...]:
        """The targets of the heatmaps of every level, B×C×h×w in 0…1, without a run of the network.

        Args:
            model: whose levels they are.
            batch: as for a call.
        """
        height, width = batch.images.shape[-2:]
        shapes = [(model.num_classes, -(-height // 2**n), -(-width // 2**n)) for n in model.levels]
        semantic = model.config.stuff == "semantic"
        targets = self._targets(model, batch, shapes, semantic=semantic)
        return tuple(level.heatmap * level.counted for level in targets.levels)

    def _targets(
        self, model: MaskConver, batch: Batch, shapes: Sequence[tuple[int, int, int]], *, semantic: bool
    ) -> Targets:
        more = self.loss.samples > 1
        is_thing = None
        if (more or semantic or self.loss.positive < 1) and model.categories is not None:
            is_thing = torch.from_numpy(model.categories.is_thing).to(batch.images.device)
        return center_targets(
            batch,
            shapes,
            model.levels,
            ranges=model.level_ranges,
            stride=model.stride,
            mask_loss_stride=self.loss.mask_loss_stride,
            min_iou=self.min_iou,
            gaussian=self.gaussian,
            positive=self.loss.positive,
            around=more,
            is_thing=is_thing,
            only_things=semantic,
            dense=self.relaxation is not None,
        )


def maskconver_losses(
    model: MaskConver,
    maps: Maps,
    targets: Targets,
    *,
    config: LossConfig,
    relaxation: SemanticRelaxation | None = None,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """The loss terms, each weighted already; their sum is what training minimises. Computed in float32.

    Args:
        model: whose embeddings and MLP are used.
        maps: what it says.
        targets: what its maps are compared with.
        config: weights and kinds.
        relaxation: relaxes masks and classes, for which `targets.masks` are needed; None for neither.
        generator: of random cells.

    Returns:
        `center`, `mask`, (unless `none`) `dice`, of a semantic head `semantic` and, of a relaxation,
        `remask`, scalars.
    """
    heatmaps, (height, width) = maps.heatmap_logits, targets.size
    # What lies beyond the image the network padded itself: no target there.
    features = maps.mask_features[..., :height, :width]
    if relaxation is not None:
        assert targets.masks is not None
        semantic, branch = relaxation(features, targets.masks.semantic)
    with full_precision(heatmaps[0].device.type):
        centers = targets.cells
        if config.embedding_at == "surest":
            centers = surest_cells(heatmaps, targets)
        elif config.embedding_at == "random":
            centers = random_cells(targets, generator)
        keep = targets.masked
        masked, cells = keep.nonzero()[:, 0], centers[keep]
        if config.positive < 1:
            ones = [(level.heatmap == 1).sum((1, 2, 3)) for level in targets.levels]
            positives = torch.stack(ones).sum(0)
        else:
            positives = torch.bincount(targets.image[masked], minlength=len(features))
        normalizers = _normalizers(positives, config)
        if config.samples > 1:
            masked, cells = sampled_cells(masked, cells, targets, samples=config.samples, generator=generator)
        image = targets.image[masked]
        counts = torch.bincount(image, minlength=len(features))

        embeddings = model.mask_embeddings(maps.embedding_map, image, cells, labels=targets.label[masked])
        basis = model.mask_basis(maps.mask_features.float())[..., :height, :width]
        relaxed, cover = None, None
        if relaxation is not None:
            assert targets.masks is not None
            relaxed = Relaxation(center_classes(heatmaps, image, cells), semantic)
            cover = basis.new_zeros(len(keep), model.num_classes)
            cover[keep] = class_cover(
                embeddings, basis, counts, masks=targets.masks, num_classes=model.num_classes
            )
        center = _center_sums(heatmaps, targets, centers, config.center, cover)
        terms = {"center": config.center_weight * (center / normalizers).mean()}

        sums = _mask_sums(
            embeddings, basis, counts, region=targets.region[masked], targets=targets, relaxation=relaxed
        )
        # A segment that falls between the cells of the loss's stride has no target; an empty mask it is not.
        seen = sums[:, 3] > 0
        sums, image = sums[seen], image[seen]
        if config.bce == "entry":
            pixels = targets.regions[0].numel()
            mask = entry_bce(sums, image, _normalizers(counts, config).float(), pixels=pixels)
        else:
            mask = BCE[config.bce](sums)
        terms["mask"] = config.mask_weight * mask
        if config.dice == "image":
            terms["dice"] = config.dice_weight * image_dice(sums, image, len(features))
        elif config.dice != "none":
            terms["dice"] = config.dice_weight * DICE[config.dice](sums)
        if maps.semantic_logits is not None:
            assert targets.semantic is not None
            logits = maps.semantic_logits[..., :height, :width].float()
            loss = semantic_head_loss(logits, targets.semantic, balance=config.semantic_balance)
            terms["semantic"] = config.semantic_weight * loss
    if relaxation is not None:
        terms["remask"] = branch
    return terms


@torch.no_grad()
def surest_cells(heatmaps: Sequence[Tensor], targets: Targets) -> Tensor:
    """Of every centre, the cell of its mask where the heatmap of its class is highest.

    Args:
        heatmaps: B×C×h×w logits of every level.
        targets: whose cells stand where a mask has no cell.

    Returns:
        m×3 int64 (index of the level, y, x).
    """
    cells = targets.cells.clone()
    for index, (logits, level) in enumerate(zip(heatmaps, targets.levels)):
        here = (cells[:, 0] == index).nonzero()[:, 0]
        image = targets.image[here]
        inside = level.regions[image] == targets.region[here, None, None]
        cells[here, 1:] = _best_cells(logits[image, targets.label[here]], inside, cells[here, 1:])
    return cells


def random_cells(targets: Targets, generator: torch.Generator | None = None) -> Tensor:
    """Of every centre, a random cell of its mask within the middle half of its box.

    Args:
        targets: whose cells stand where a mask has no such cell.
        generator: draws them; on the device of the targets.

    Returns:
        m×3 int64 (index of the level, y, x).
    """
    cells = targets.cells.clone()
    for index, level in enumerate(targets.levels):
        here = (cells[:, 0] == index).nonzero()[:, 0]
        inside = level.regions[targets.image[here]] == targets.region[here, None, None]
        low, high = targets.boxes[here, :2], targets.boxes[here, 2:]
        middle, reach = (low + high) / 2, (high - low) / 4  # half of a half
        for dim, n in enumerate(inside.shape[-2:]):
            places = (torch.arange(n, device=cells.device) + 0.5) * level.stride
            near = (places - middle[:, dim : dim + 1]).abs() <= reach[:, dim : dim + 1]
            inside = inside & near.unsqueeze(2 - dim)
        drawn = torch.rand(inside.shape, generator=generator, device=cells.device)
        cells[here, 1:] = _best_cells(drawn, inside, cells[here, 1:])
    return cells


def _best_cells(values: Tensor, inside: Tensor, otherwise: Tensor) -> Tensor:
    """n×2 (y, x) of the largest of n×h×w values where `inside` is true; `otherwise` where it nowhere is."""
    best, width = values.masked_fill(~inside, -torch.inf).flatten(1).argmax(1), values.shape[-1]
    found = torch.stack([best.div(width, rounding_mode="floor"), best % width], 1)
    return torch.where(inside.flatten(1).any(1)[:, None], found, otherwise)


def sampled_cells(
    masked: Tensor, cells: Tensor, targets: Targets, *, samples: int, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Where embeddings are read: at the given cells, and at up to `samples - 1` cells around each centre.

    Args:
        masked: (n,) int64, the centres whose masks are learnt.
        cells: n×3 int64 (index of the level, y, x), one of each.
        targets: with `around`.
        samples: cells a centre, 1 or more.
        generator: draws them; on the device of the targets.

    Returns:
        (k,) int64 centres, ordered by image, and k×3 int64 cells.
    """
    assert targets.around is not None
    owners, places = targets.around
    order = torch.randperm(len(owners), generator=generator, device=owners.device)
    order = order[owners[order].argsort(stable=True)]
    owners, places = owners[order], places[order]
    number = torch.bincount(owners, minlength=len(targets.image))
    rank = torch.arange(len(owners), device=owners.device) - (number.cumsum(0) - number)[owners]
    more = (rank < samples - 1) & targets.masked[owners]
    masked, cells = torch.cat([masked, owners[more]]), torch.cat([cells, places[more]])
    order = targets.image[masked].argsort(stable=True)
    return masked[order], cells[order]


def _center_sums(
    heatmaps: Sequence[Tensor], targets: Targets, cells: Tensor, kind: CenterLoss, cover: Tensor | None
) -> Tensor:
    """(B,) centre losses summed over all levels.

    Of a relaxation, `cover` (m×C) softens the targets at the cells.
    """
    total = torch.zeros(len(heatmaps[0]), device=cells.device)
    for index, (logits, level) in enumerate(zip(heatmaps, targets.levels)):
        heatmap = level.heatmap
        if cover is not None:
            here = (cells[:, 0] == index).nonzero()[:, 0]
            heatmap = soften_centers(heatmap, targets.image[here], cells[here, 1:], cover[here])
        total = total + center_sums(logits, heatmap, level.counted, kind=kind)
    return total


def _mask_sums(
    embeddings: Tensor,
    basis: Tensor,
    counts: Tensor,
    *,
    region: Tensor,
    targets: Targets,
    relaxation: Relaxation | None = None,
) -> Tensor:
    """(n, 5) `mask_sums` of all masks of the batch, `counts` of them in each image."""
    ends = counts.cumsum(0).tolist()
    own = basis.unbind()  # indexing would make the gradient of the whole batch once for each image
    sums = [
        chunked_mask_sums(
            embeddings[begin:end],
            own[i],
            region[begin:end],
            regions=targets.regions[i],
            valid=targets.valid[i],
            relaxation=None
            if relaxation is None
            else Relaxation(relaxation.classes[begin:end], relaxation.semantic[i : i + 1]),
        )
        for i, (begin, end) in enumerate(zip([0, *ends], ends))
        if end > begin
    ]
    if sums:
        return torch.cat(sums)
    # Without a single mask the sums are empty but still reach every parameter, as DDP wants.
    return embeddings.new_zeros(0, 5) + embeddings.sum() * 0 + basis.sum() * 0


def _normalizers(counts: Tensor, config: LossConfig) -> Tensor:
    """(B,) what the sums over so many masks or cells of each image are divided by."""
    return (counts if config.normalizer == "image" else _global_mean(counts)) + 1


def _global_mean(counts: Tensor) -> Tensor:
    """(B,) the mean of all processes' counts, for every image."""
    return (sum_over_processes(counts.float().sum()) / (len(counts) * world_size())).expand(len(counts))
