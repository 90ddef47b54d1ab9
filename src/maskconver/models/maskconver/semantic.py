"""Stuff from a semantic head: the class probabilities of every cell become proposals (ours)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...core.proposals import Proposals
from ..topk import TopK, stable_topk

LARGEST = 30.0  # of a mask logit, so that a class alone has a finite one


def with_stuff(
    things: Proposals,
    semantic_logits: Tensor | None,
    stuff: Sequence[int],
    *,
    agreement: float = 0.0,
    topk: TopK = stable_topk,
) -> Proposals:
    """Adds a proposal for every stuff class, lets the head weigh the things, and sorts all by score.

    The mask of class c is its softmax probability p; where every class is stuff, p against the most probable
    other class alone, which is above 0.5 exactly where c is the most probable of all. Its score is the IoU
    that the cells R where it is the most probable are expected to have, Σ_R p / (#R + Σ_{not R} p): near 1
    for a class that is clearly there, near 0 for scattered cells of one that is not, and 0 for none.

    The score s of a thing becomes s^(1-a)·q^a, where q is the mean probability of its class over all cells,
    weighted by the probability of its mask, and a is `agreement`.

    Args:
        things: K proposals per image, masks of h×w.
        semantic_logits: B×C×h×w float, or None for nothing to add.
        stuff: the classes.
        agreement: a, 0…1.
        topk: how scores are ranked.

    Returns:
        K + len(stuff) proposals per image.
    """
    if semantic_logits is None or not stuff:
        return things
    logits = semantic_logits.float()
    thing_scores = things.scores
    if agreement and thing_scores.shape[1]:
        thing_scores = thing_scores ** (1 - agreement) * _agreement(things, logits) ** agreement
    alone = len(stuff) == logits.shape[1]
    if logits.shape[1] > 1:
        strongest = torch.amax if alone else torch.logsumexp
        # One class after the other: the others of all at once would take C² maps.
        rivals = (torch.cat([logits[:, :c], logits[:, c + 1 :]], 1) for c in stuff)
        margins = [logits[:, c : c + 1] - strongest(rest, 1, keepdim=True) for c, rest in zip(stuff, rivals)]
        masks = torch.cat(margins, 1).clamp(-LARGEST, LARGEST)
    else:
        masks = torch.full_like(logits, LARGEST)
    p = logits.softmax(1)[:, list(stuff)] if alone else masks.sigmoid()
    inside = (logits[:, list(stuff)] >= logits.amax(1, keepdim=True)).float()
    scores = (p * inside).sum((2, 3)) / (inside + p * (1 - inside)).sum((2, 3)).clamp(min=1)
    labels = torch.tensor(tuple(stuff), device=logits.device).expand(len(logits), -1)
    scores = torch.cat([thing_scores, scores], 1)
    order = topk(scores, scores.shape[1])
    labels = torch.cat([things.labels, labels], 1).gather(1, order)
    image = torch.arange(len(order), device=order.device)[:, None]
    masks = torch.cat([things.mask_logits, masks], 1)[image, order]  # an index that every export knows
    return Proposals(scores.gather(1, order), labels, masks)


def _agreement(things: Proposals, logits: Tensor) -> Tensor:
    """B×K mean probability of each proposal's class, weighted by its mask's probability."""
    mask = things.mask_logits.float().sigmoid().flatten(2)
    probabilities = mask @ logits.softmax(1).flatten(2).transpose(1, 2)  # B×K×C, summed over the mask
    own: Tensor = probabilities.gather(2, things.labels[:, :, None])[:, :, 0]
    return own / mask.sum(2).clamp(min=1e-6)
