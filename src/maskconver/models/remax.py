"""ReMaX (arXiv 2306.17319), masks and classes relaxed in training: equations 1 to 4, the semantic branch."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .batch import MaskTargets, region_sums
from .decoders.aspp import ASPP

DIM, DROPOUT = 256, 0.1
ETA, SEMANTIC_WEIGHT = 0.1, 0.5  # the paper's η, and the weight of a branch's loss
ProbabilityKind = Literal["softmax", "sigmoid"]
SemanticLoss = Literal["bce", "softmax_ce"]


class SemanticBranch(nn.Module):
    """m_sem = conv1×1(ASPP(x_sem)), with which equation 1 relaxes the masks of a layer (§3.1).

    At the start every class has probability 1/K (ours: with 1/2, as a bias of 0 gives, masks of many classes
    would be relaxed to tens of times their logits).

    Args:
        inp: channels of x_sem.
        num_classes: K.
        separable: the ASPP's dilated convolutions are depthwise and 1×1.
        momentum: of the batch norms.
    """

    def __init__(
        self, inp: int, num_classes: int, separable: bool = False, *, momentum: float = 0.01
    ) -> None:
        super().__init__()
        self.aspp = ASPP(inp, DIM, momentum=momentum, separable=separable, activation="gelu")
        self.dropout = nn.Dropout(DROPOUT)
        self.out = nn.Conv2d(DIM, num_classes, 1)
        nn.init.trunc_normal_(self.out.weight, std=0.01, a=-0.02, b=0.02)
        assert self.out.bias is not None
        nn.init.constant_(self.out.bias, -math.log(max(num_classes - 1, 1)))

    def forward(self, x: Tensor) -> Tensor:
        """B×inp×h×w to B×K×h×w logits."""
        return self.out(self.dropout(self.aspp(x)))


def branch_loss(logits: Tensor, semantic: Tensor, kind: SemanticLoss) -> Tensor:
    """L_sem of a branch (§3.1): mean over the labelled pixels of an image, and over images.

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


def probability(logits: Tensor, kind: ProbabilityKind, dim: int) -> Tensor:
    """σ of the paper: a softmax of logits along `dim` (classes or queries), or a sigmoid of each."""
    return logits.softmax(dim) if kind == "softmax" else logits.sigmoid()


def semantic_gate(semantic: Tensor, classes: Tensor) -> Tensor:
    """Equation 1, m̂_sem = σ(m_sem) σ(p)ᵀ: how probable a query's classes are at a pixel.

    Args:
        semantic: B×K×h×w probabilities of the pixels.
        classes: B×N×K probabilities of the queries.

    Returns:
        B×N×h×w, from 0 up.
    """
    return torch.einsum("bkhw,bnk->bnhw", semantic, classes)


def relax(masks: Tensor, gate: Tensor, identity: bool = True) -> Tensor:
    """Equation 2, m̂_pan = m_pan + m̂_sem · m_pan; without the identity only the product.

    Args:
        masks: logits of any shape.
        gate: m̂_sem of that shape.
        identity: whether the mask itself is a term.
    """
    return masks + gate * masks if identity else gate * masks


@torch.no_grad()
def class_overlap(masks: Tensor, targets: MaskTargets, num_classes: int) -> Tensor:
    """Equation 3, which share of a class's pixels a mask covers; 0 of absent classes.

        y_m[q, c] = Σ_i σ(m_pan)[i, q] S[i, c] / Σ_i S[i, c]

    Args:
        masks: B×N×h×w probabilities σ(m_pan).
        targets: whose masks together are the semantic ground truth S.
        num_classes: K.

    Returns:
        B×N×K in 0…1.
    """
    classes = F.one_hot(targets.labels + 1, num_classes + 1)[..., 1:].to(masks.dtype)
    covered = region_sums(masks, targets) @ classes
    areas = region_sums(torch.ones_like(masks[:, :1]), targets) @ classes
    return covered / areas.clamp(min=1)


def soften(target: Tensor, overlap: Tensor, eta: float) -> Tensor:
    """Equation 4, ŷ = η y_m + (1 - η y_m) y: 1 at the query's own class, η y_m at the others.

    Args:
        target: y in 0…1, …×K.
        overlap: y_m of that shape, see `class_overlap`.
        eta: η, 0…1.

    Returns:
        Of that shape, in 0…1; a row's sum is 1 or more.
    """
    relaxed = eta * overlap
    return relaxed + (1 - relaxed) * target
