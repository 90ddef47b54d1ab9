"""Mask-ID cross-entropy: which query a pixel belongs to (kmax page §3; ReMaX §3)."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from .loss_terms import mean_of_nonzero

MaskActivation = Literal["softmax", "sigmoid"]


def mask_probability(logits: Tensor, activation: MaskActivation) -> Tensor:
    """σ of B×N×h×w mask logits: a softmax over the N queries, or a sigmoid of each."""
    return logits.softmax(1) if activation == "softmax" else logits.sigmoid()


def mask_id_loss(logits: Tensor, owner: Tensor, activation: MaskActivation) -> Tensor:
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


def false_losses(logits: Tensor, owner: Tensor) -> tuple[Tensor, Tensor]:
    """(B,) sums of the sigmoid form over the negatives and over the positives of an image (ReMaX, Figure 1).

    Args:
        logits: B×N×h×w.
        owner: B×h×w int64 query of the pixel, -1 on void.
    """
    own, labelled = _own(logits, owner), owner >= 0
    positive = F.softplus(-own)
    negative = F.softplus(logits).sum(1) - F.softplus(own)
    return (negative * labelled).flatten(1).sum(1), (positive * labelled).flatten(1).sum(1)


def _own(logits: Tensor, owner: Tensor) -> Tensor:
    """B×h×w logit of the pixel's own query; any on void."""
    return logits.gather(1, owner.clamp(min=0)[:, None])[:, 0]
