"""Classes of pixels: the auxiliary semantic head and the branches of ReMask (kmax page §3 and §4.1)."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .loss_terms import mean_of_nonzero
from .sampling import sample_pixels

SemanticLoss = Literal["bce", "softmax_ce"]


def sampled_semantic_loss(
    logits: Tensor, semantic: Tensor, samples: int, temperature: float, hardest: float = 1.0
) -> Tensor:
    """Cross-entropy on sampled pixels, mean over those of an image and over images.

    Args:
        logits: B×C×h×w float32; channels beyond the classes are never a target.
        semantic: B×h×w int64, -1 is void.
        samples: pixels an image, those of small classes more often; all where there are fewer.
        temperature: of the sampling.
        hardest: only this share of the pixels, those of the largest loss.
    """
    values, labels = logits.flatten(2), semantic.flatten(1)
    chosen = sample_pixels(labels, logits.shape[1], samples, temperature)
    if chosen is not None:
        labels = labels.gather(1, chosen)
        values = values.gather(2, chosen[:, None].expand(-1, values.shape[1], -1))
    loss = F.cross_entropy(values, labels, ignore_index=-1, reduction="none")
    if hardest < 1:
        loss = loss.topk(max(math.ceil(hardest * loss.shape[1]), 1), 1, sorted=False).values
    return mean_of_nonzero(loss)


def branch_loss(logits: Tensor, semantic: Tensor, kind: SemanticLoss) -> Tensor:
    """L_sem of a ReMask branch: mean over the labelled pixels of an image, and over images.

    Args:
        logits: B×K×h×w float32.
        semantic: B×h×w int64, -1 is void.
        kind: `bce`, binary cross-entropies summed over the classes, or `softmax_ce`.
    """
    labelled = semantic >= 0
    own = logits.gather(1, semantic.clamp(min=0)[:, None])[:, 0]
    together = F.softplus(logits).sum(1) if kind == "bce" else logits.logsumexp(1)
    total = ((together - own) * labelled).flatten(1).sum(1)
    return (total / labelled.flatten(1).sum(1).clamp(min=1)).mean()


def one_hot_map(semantic: Tensor, classes: int) -> Tensor:
    """B×h×w labels to B×K×h×w float32; nothing on void."""
    return (semantic[:, None] == torch.arange(classes, device=semantic.device)[:, None, None]).float()
