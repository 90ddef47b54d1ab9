"""Which query answers for which mask: the cheapest one-to-one assignment (arXiv 2207.04044)."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ..batch import MaskTargets, region_sums

DICE_EPS = 1e-5


def similarities(class_logits: Tensor, masks: Tensor, targets: MaskTargets) -> tuple[Tensor, Tensor]:
    """Mask dice and class probability of every pair of a query and a mask.

        dice = Σ m_q G_g / ((Σ m_q + Σ G_g) / 2 + 1e-5);   cls = softmax(p_q)[label of g]

    Args:
        class_logits: B×N×(K+1) float32.
        masks: B×N×h×w probabilities, 0 on void.
        targets: R masks an image.

    Returns:
        Two B×N×R; of masks that are not there the values mean nothing.
    """
    common = region_sums(masks, targets)
    areas = region_sums(torch.ones_like(masks[:, :1]), targets)
    dice = common / ((masks.sum((2, 3))[..., None] + areas) / 2 + DICE_EPS)
    labels = targets.labels.clamp(min=0)[:, None].expand(-1, class_logits.shape[1], -1)
    return dice, class_logits.softmax(-1).gather(2, labels)


@torch.no_grad()
def match(dice: Tensor, probability: Tensor, labels: Tensor) -> Tensor:
    """The assignment that minimises the sum of -dice · class probability.

    All problems of a step (images, and outputs where each has its own) go to the host together.

    Args:
        dice, probability: …×N×R, see `similarities`.
        labels: …×R int64; -1 where there is no mask.

    Returns:
        …×N int64, the mask of each query; -1 for none. With more masks than queries N masks have one.
    """
    cost = -(dice * probability).masked_fill((labels < 0)[..., None, :], -torch.inf)
    *problems, queries, masks = cost.shape
    found = np.full((int(np.prod(problems)), queries), -1, np.int64)
    # A network that diverged has NaN costs; its losses will say so.
    host = cost.reshape(len(found), queries, masks).float().cpu().numpy()
    for chosen, costs in zip(found, host):
        there = np.flatnonzero(~np.isposinf(costs).all(0))
        rows, columns = linear_sum_assignment(np.nan_to_num(costs[:, there]))
        chosen[rows] = there[columns]
    return torch.from_numpy(found).view(*problems, queries).to(cost.device)
