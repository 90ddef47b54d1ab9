"""PQ-style class and dice terms: each weighs the other's quality (MaX-DeepLab, arXiv 2012.00759)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..batch import MaskTargets
from ..remax import ProbabilityKind

VOID = -99999.0


@torch.no_grad()
def sample_pixels(
    owner: Tensor, owners: int, count: int, *, temperature: float, generator: torch.Generator | None = None
) -> Tensor | None:
    """Gumbel top-k with logits `temperature · ln(pixels / area of the pixel's mask)`.

    Args:
        owner: B×P int64 in 0…owners-1, the pixel's mask or class; -1 is void, drawn only when nothing else
            is left.
        owners: how many masks or classes there may be.
        count: how many pixels.
        temperature: 0 draws all pixels alike, 1 all masks.
        generator: on the device of `owner`; PyTorch's own where None.

    Returns:
        B×count int64 pixels; None where that is all of them.
    """
    b, pixels = owner.shape
    if count >= pixels:
        return None
    number = owner + 1
    ones = torch.ones_like(number, dtype=torch.float32)
    areas = ones.new_zeros(b, owners + 1).scatter_add_(1, number, ones)
    logits = temperature * (pixels / areas.gather(1, number)).log()
    gumbel = -torch.empty_like(logits).exponential_(generator=generator).log()
    return (logits.masked_fill(owner < 0, VOID) + gumbel).topk(count, 1, sorted=False).indices


POSITIVE, NEGATIVE, MIN_WEIGHT = 0.75, 0.25, 1e-5


class Assignment(NamedTuple):
    """What each query has to say, found once a step from the final output.

    Attributes:
        owner: B×h×w int64, the query of the pixel's mask; -1 on void and on masks without a query.
        target: B×N int64 class of each query; K is "no object".
        class_weight: B×N, α w of the class term.
        dice_weight: B×N, v of the dice term.
    """

    owner: Tensor
    target: Tensor
    class_weight: Tensor
    dice_weight: Tensor


@torch.no_grad()
def assign(
    found: Tensor,
    dice: Tensor,
    probability: Tensor,
    *,
    masks: Tensor,
    targets: MaskTargets,
    num_classes: int,
) -> Assignment:
    """Targets and weights of the queries.

        matched:  w = max(dice, 1e-5), v = max(class probability, 1e-5);   α = 0.75
        others:   w = max(Σ_void m / (Σ m + 1e-5), 1e-5), v = 0;           α = 0.25

    Args:
        found: B×N int64 mask of each query, -1 for none, see `match`.
        dice, probability: B×N×R, see `similarities`.
        masks: B×N×h×w probabilities, those on void too.
        targets: the masks.
        num_classes: K.
    """
    matched = found >= 0
    b, n = found.shape
    # R could be 0: one more column stands for no mask.
    pad = dice.new_zeros(b, n, 1)
    pick = (found + 1)[..., None]
    dice, probability = (torch.cat([pad, v], 2).gather(2, pick)[..., 0] for v in (dice, probability))
    labels = torch.cat([torch.full_like(found[:, :1], num_classes), targets.labels], 1)
    query_of = torch.full_like(labels, -1)
    queries = torch.arange(n, device=found.device).expand(b, -1)
    query_of.scatter_(1, found + 1, queries)  # column 0 collects the queries without a mask
    query_of[:, 0] = -1
    owner = query_of.gather(1, (targets.owner + 1).flatten(1)).view_as(targets.owner)
    void = (masks * (owner < 0)[:, None]).sum((2, 3)) / (masks.sum((2, 3)) + MIN_WEIGHT)
    class_weight = torch.where(
        matched, POSITIVE * dice.clamp(min=MIN_WEIGHT), NEGATIVE * void.clamp(min=MIN_WEIGHT)
    )
    dice_weight = torch.where(matched, probability.clamp(min=MIN_WEIGHT), 0)
    return Assignment(owner, labels.gather(1, found + 1), class_weight, dice_weight)


def mean_of_nonzero(terms: Tensor) -> Tensor:
    """Mean over the images of the mean over each one's terms that are not 0; 0 where there are none.

    Args:
        terms: B×….
    """
    terms = terms.flatten(1)
    return (terms.sum(1) / (terms != 0).sum(1).clamp(min=1)).mean()


def class_loss(class_logits: Tensor, soft_targets: Tensor, weight: Tensor) -> Tensor:
    """Mean over queries of `-α w Σ_c y_c log softmax(p)_c`.

    Args:
        class_logits: B×N×(K+1) float32.
        soft_targets: B×N×(K+1), see `remax.soften`; not normalised.
        weight: B×N.
    """
    return mean_of_nonzero(weight * -(soft_targets * class_logits.log_softmax(-1)).sum(-1))


def dice_loss(masks: Tensor, assignment: Assignment) -> Tensor:
    """`Σ_q v (1 - (2 Σ m G + 1) / (Σ m + Σ G + 1)) · 0.75 / N`, mean over images.

    Args:
        masks: B×N×h×w probabilities.
        assignment: whose pixels are whose; void counts nowhere.
    """
    n, owner = masks.shape[1], assignment.owner.flatten(1)
    labelled = owner >= 0
    own = masks.flatten(2).gather(1, owner.clamp(min=0)[:, None])[:, 0] * labelled
    zeros = masks.new_zeros(len(masks), n)
    common = zeros.scatter_add(1, owner.clamp(min=0), own)
    areas = zeros.scatter_add(1, owner.clamp(min=0), labelled.to(masks.dtype))
    total = (masks.flatten(2) @ labelled.to(masks.dtype)[..., None])[..., 0] + areas
    loss = assignment.dice_weight * (1 - (2 * common + 1) / (total + 1))
    return loss.sum(1).mean() * POSITIVE / n


def mask_id_loss(logits: Tensor, owner: Tensor, activation: ProbabilityKind) -> Tensor:
    """Cross-entropy of a pixel's query, mean over the labelled pixels of an image and over images.

    As a softmax over the queries, or as the sum over queries of binary cross-entropies: the sum keeps the
    term of the right query at the softmax's scale.

    Args:
        logits: B×N×h×w float32.
        owner: B×h×w int64 query of the pixel, -1 on void.
        activation: the form.
    """
    own = _own(logits, owner)
    if activation == "softmax":
        return mean_of_nonzero((logits.logsumexp(1) - own) * (owner >= 0))
    labelled = owner >= 0
    total = ((F.softplus(logits).sum(1) - own) * labelled).flatten(1).sum(1)
    return (total / labelled.flatten(1).sum(1).clamp(min=1)).mean()


def false_losses(
    logits: Tensor, owner: Tensor, activation: ProbabilityKind = "sigmoid"
) -> tuple[Tensor, Tensor]:
    """(B,) binary cross-entropies of the negatives and of the positives of an image (ReMaX, Figure 1).

    Args:
        logits: B×N×h×w.
        owner: B×h×w int64 query of the pixel, -1 on void.
        activation: what the logits become probabilities by.
    """
    if activation == "softmax":  # as the logits of which a sigmoid gives the same probabilities
        shares = logits.log_softmax(1)
        logits = shares - torch.log1p(-shares.exp().clamp(max=1 - MIN_WEIGHT))
    own, labelled = _own(logits, owner), owner >= 0
    positive = F.softplus(-own)
    negative = F.softplus(logits).sum(1) - F.softplus(own)
    return (negative * labelled).flatten(1).sum(1), (positive * labelled).flatten(1).sum(1)


def _own(logits: Tensor, owner: Tensor) -> Tensor:
    """B×h×w logit of the pixel's own query; any on void."""
    return logits.gather(1, owner.clamp(min=0)[:, None])[:, 0]


ROWS = 512


def instance_discrimination(
    feature: Tensor, owner: Tensor, owners: int, *, temperature: float = 0.3
) -> Tensor:
    """Cross-entropy between "is of my mask", each row of sum 1, and softmax(F_i · F_j / τ).

    Args:
        feature: B×k×D float32 of length about 1.
        owner: B×k int64 in 0…owners-1, the pixel's mask; void (-1) pixels are only somebody's negatives.
        owners: how many masks there may be.
        temperature: τ.
    """
    # -Σ_j T_ij log softmax_ij = logsumexp_j(s_ij) - F_i · (mean feature of i's mask) / τ; the k×k matrix is
    # made a few rows at a time, and again in the backward pass, not kept for seven outputs.
    rows = [
        checkpoint(_log_sums, part, feature, temperature, use_reentrant=False, preserve_rng_state=False)
        for part in feature.split(ROWS, 1)
    ]
    spread = torch.cat(rows, 1)
    b, _, d = feature.shape
    number = owner + 1
    index = number[..., None].expand_as(feature)
    sums = feature.new_zeros(b, owners + 1, d).scatter_add(1, index, feature)
    counts = feature.new_zeros(b, owners + 1).scatter_add(1, number, torch.ones_like(feature[..., 0]))
    mean = (sums / counts.clamp(min=1)[..., None]).gather(1, index)
    return mean_of_nonzero((spread - (feature * mean).sum(-1) / temperature) * (owner >= 0))


def _log_sums(rows: Tensor, feature: Tensor, temperature: float) -> Tensor:
    return (rows @ (feature / temperature).transpose(1, 2)).logsumexp(-1)


def sampled_semantic_loss(
    logits: Tensor,
    semantic: Tensor,
    samples: int,
    *,
    temperature: float,
    hardest: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Cross-entropy on sampled pixels, mean over those of an image and over images.

    Args:
        logits: B×C×h×w float32; channels beyond the classes are never a target.
        semantic: B×h×w int64, -1 is void.
        samples: pixels an image, those of small classes more often; all where there are fewer.
        temperature: of the sampling.
        hardest: only this share of the pixels, those of the largest loss.
        generator: see `sample_pixels`.
    """
    values, labels = logits.flatten(2), semantic.flatten(1)
    chosen = sample_pixels(labels, logits.shape[1], samples, temperature=temperature, generator=generator)
    if chosen is not None:
        labels = labels.gather(1, chosen)
        values = values.gather(2, chosen[:, None].expand(-1, values.shape[1], -1))
    loss = F.cross_entropy(values, labels, ignore_index=-1, reduction="none")
    if hardest < 1:
        loss = loss.topk(max(math.ceil(hardest * loss.shape[1]), 1), 1, sorted=False).values
    return mean_of_nonzero(loss)


def one_hot_map(semantic: Tensor, classes: int) -> Tensor:
    """B×h×w labels to B×K×h×w float32; nothing on void."""
    return (semantic[:, None] == torch.arange(classes, device=semantic.device)[:, None, None]).float()
