"""PQ-style class and dice terms: each weighs the other's quality (kmax page §3; MaX-DeepLab)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .targets import MaskTargets

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
    found: Tensor, dice: Tensor, probability: Tensor, masks: Tensor, targets: MaskTargets, num_classes: int
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
        soft_targets: B×N×(K+1), see `reclass`; not normalised.
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
