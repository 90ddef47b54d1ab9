"""MaskConver as inference needs it: the same answers from less arithmetic.

Batch norms go into the convolutions before them. Centre embeddings are needed at the peaks alone, so the last
1×1 convolutions of their head run there and not on the map. The mask head's last convolution is a linear map
of its features, so it is applied to each mask embedding instead of to every cell.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.proposals import Proposals
from ..fold import folded
from ..layers import full_precision
from .model import MaskConver, monomials
from .peaks import top_peaks

LAST = slice(-1, None)  # of a separable head: its last 1×1 convolution


def fuse(model: MaskConver) -> MaskConver:
    """A copy of `model` for inference alone; answers differ by rounding.

    Its state dict is its own; `model` stays as it is. Heads of full convolutions stay whole.
    """
    fused = folded(model, model.config.in_channels)
    if fused.config.separable:
        fused.__class__ = FusedMaskConver
    return fused


class FusedMaskConver(MaskConver):
    """Made by `fuse`: centre embeddings at the peaks only, masks from what comes before the mask features."""

    @torch.no_grad()
    def predict(self, images: Tensor, proposals: int | None = None) -> Proposals:
        """See `MaskConver.predict`."""
        features = self.features(images)
        peaks = top_peaks(
            self.class_head(*features), proposals or self.config.proposals, self.config.peak_kernel
        )
        b, k = peaks.labels.shape
        batch = torch.arange(b, device=images.device).repeat_interleave(k)
        cells, head = peaks.cells.flatten(0, 1), self.embedding_head
        before = head.convolve(head.join(*features), part=slice(-1))
        at_cells = before[batch, :, cells[:, 0], cells[:, 1]].T[None, :, :, None]  # 1×C×n×1, a narrow map
        pooled = head.out(head.convolve(at_cells, part=LAST))[0, :, :, 0].T
        before = self.mask_head.convolve(self.mask_head.join(*features))
        with full_precision(images.device.type):
            embeddings = self.mask_embeddings_of(pooled.float(), cells, peaks.labels.flatten()).view(b, k, -1)
            mask_logits = self.masks(embeddings, before.float())
        return Proposals(peaks.scores, peaks.labels, mask_logits)

    def masks(self, embeddings: Tensor, before: Tensor) -> Tensor:
        """B×k mask embeddings times the mask features W·before + b, as (embedding·W)·before + embedding·b.

        Args:
            embeddings: B×k×D, with `position` D+6.
            before: B×C×h×w, what the mask head's last convolution takes.

        Returns:
            B×k×h×w.
        """
        dim, (h, w), out = self.config.embedding_dim, before.shape[-2:], self.mask_head.out
        assert out.bias is not None
        looks = embeddings[..., :dim]
        logits = looks @ out.weight[:, :, 0, 0] @ before.flatten(2) + looks @ out.bias[:, None]
        if self.config.position:
            logits = logits + embeddings[..., dim:] @ monomials(h, w, before.device).flatten(1)
        return logits.unflatten(2, (h, w))
