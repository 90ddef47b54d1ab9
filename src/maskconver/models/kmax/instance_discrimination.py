"""Pixels of one mask have like features, others unlike ones (kmax page §3; MaX-DeepLab)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .loss_terms import mean_of_nonzero

ROWS = 512


def instance_discrimination(feature: Tensor, owner: Tensor, owners: int, temperature: float = 0.3) -> Tensor:
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
