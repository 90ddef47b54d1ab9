"""The best of many scores, equal ones in their order: two ways, one for PyTorch and one for graphs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# (scores B×n ≥ 0, k) to B×min(k, n) int64: indices of the largest, largest first, the lower index on a tie.
TopK = Callable[[Tensor, int], Tensor]


def stable_topk(scores: Tensor, k: int) -> Tensor:
    """See `TopK`; for whatever PyTorch runs, as its own topk promises nothing about ties.

    Args:
        scores: B×n float32 ≥ 0.
        k: how many; at most n are returned.
    """
    n = scores.shape[1]
    # Scores are ≥ 0, so their bits order as they do; with the position below the bits every key is different
    # and a tie goes to the lower position.
    keys = (scores.view(torch.int32).long() << 32) | torch.arange(n - 1, -1, -1, device=scores.device)
    return (n - 1) - (keys.topk(torch.sym_min(k, n), dim=1).values & 0xFFFFFFFF)


def operator_topk(scores: Tensor, k: int) -> Tensor:
    """See `TopK`; for graphs of ONNX and LiteRT, whose TopK gives the lower index first by definition.

    They cannot read the bits of a float, which `stable_topk` does.
    """
    return scores.topk(torch.sym_min(k, scores.shape[1]), dim=1).indices
