"""MaskConver as inference needs it: the same answers from less arithmetic.

Batch norms go into the convolutions before them. Centre embeddings are needed at the peaks alone, so the last
1×1 convolutions of their head run there and not on the map. The mask head's last convolution is a linear map
of its features, so it is applied to each mask embedding instead of to every cell. Peaks that score too low to
become a segment get no mask, where the threshold is known.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from ...core.proposals import Proposals
from ..layers import full_precision
from ..optimize import InferenceModel, folded
from ..topk import TopK, stable_topk
from .heads import Head
from .model import MaskConver
from .peaks import Peaks, at_cells
from .position import monomials
from .semantic import with_stuff

LAST = slice(-1, None)  # of a separable head: its last 1×1 convolution
MARGIN = 1e-4  # for the rounding of powers


def optimize(model: MaskConver, *, topk: TopK = stable_topk) -> InferenceModel:
    """A model for inference alone; answers differ by rounding.

    Args:
        model: stays as it is.
        topk: how peaks are ranked.
    """
    network = folded(model, model.config.in_channels)
    late = model.mask_fusion is None and model.config.separable
    return (LateHeads if late else Folded)(model, network, topk)


class Folded(InferenceModel):
    """The network with its batch norms folded.

    Args:
        model: what it was made from.
        network: a copy of it, see `folded`.
        topk: how peaks are ranked.
    """

    flips = True

    def __init__(self, model: MaskConver, network: MaskConver, topk: TopK = stable_topk) -> None:
        super().__init__(model, topk)
        self.network = network
        self.eval()

    @property
    def first_stay_first(self) -> bool:
        """See `MaskConver.first_stay_first`."""
        return self.network.first_stay_first

    def predict(self, images: Tensor, proposals: int | None = None) -> Proposals:
        """See `MaskConver.predict`."""
        return self.network.predict(images, proposals, topk=self.topk)

    def predict_flipped(self, images: Tensor, proposals: int | None = None) -> Proposals:
        """See `MaskConver.predict_flipped`."""
        return self.network.predict_flipped(images, proposals, topk=self.topk)


class LateHeads(Folded):
    """Centre embeddings at the peaks only, masks from what comes before the mask features.

    For a single-scale network of separable heads.
    """

    selects = True

    @torch.no_grad()
    def predict(self, images: Tensor, proposals: int | None = None, least: float | None = None) -> Proposals:
        """See `MaskConver.predict`.

        Args:
            images: normalised, B×C×H×W float.
            proposals: number of masks per image.
            least: score in 0…1; leave out what scores no more than this in every image of the batch, as far
                as that is known before the masks are.
        """
        network, features = self.network, self.network.features(images)
        class_head, head, mask_head = self.heads()
        (level,), detail = features.pyramid, features.detail
        peaks = network.peaks((class_head(level, detail),), proposals, topk=self.topk)
        if least is not None:
            alive = ~(peaks.scores <= self.least_peak(least)).all(0)  # NaN stays
            peaks = Peaks(*(part[:, alive] for part in peaks))
        b, k = peaks.labels.shape
        # onnxscript 0.7 writes a repeat_interleave that is wrong where b is not fixed.
        image = torch.arange(b, device=images.device)[:, None].expand(b, k).flatten()
        cells = peaks.cells.flatten(0, 1)
        before = head.convolve(head.join(level, detail), part=slice(-1))
        pooled = before.new_zeros(0, self.config.embedding_dim)
        if k:  # of stuff alone, found by a semantic head, there is none
            read = at_cells((before,), image, cells).T[None, :, :, None]  # 1×C×n×1, a narrow map
            pooled = head.out(head.convolve(read, part=LAST))[0, :, :, 0].T
        before = mask_head.convolve(mask_head.join(features.masks, detail))
        with full_precision(images.device.type):
            embeddings = network.mask_embeddings_of(pooled.float(), cells, peaks.labels.flatten())
            mask_logits = self.masks(embeddings.unflatten(0, (b, k)), before.float())
            mask_logits = network.without_padding(mask_logits, images)
            things = Proposals(peaks.scores, peaks.labels, mask_logits)
            if (semantic := network.semantic_logits(features)) is not None:
                semantic = network.without_padding(semantic, images)
            return with_stuff(
                things, semantic, network.stuff_classes, agreement=network.config.agreement, topk=self.topk
            )

    def least_peak(self, least: float) -> float:
        """The score of a peak up to which its proposal scores no more than `least`.

        A semantic head makes it s^(1-a)·q^a with q ≤ 1, see `with_stuff`.
        """
        share = 1 - self.network.config.agreement if self.network.stuff_classes else 1.0
        if share == 1:
            return least
        return least ** (1 / share) * (1 - MARGIN) if share > 0 and least > 0 else -1.0

    def heads(self) -> tuple[Head, Head, Head]:
        """The class, embedding and mask head."""
        network = self.network
        return cast(tuple[Head, Head, Head], (network.class_head, network.embedding_head, network.mask_head))

    def masks(self, embeddings: Tensor, before: Tensor) -> Tensor:
        """B×k mask embeddings times the mask features W·before + b, as (embedding·W)·before + embedding·b.

        Args:
            embeddings: B×k×D, with `position` D+6.
            before: B×C×h×w, what the mask head's last convolution takes.

        Returns:
            B×k×h×w.
        """
        dim, (h, w), out = self.config.embedding_dim, before.shape[-2:], self.heads()[2].out
        assert out.bias is not None
        looks = embeddings[..., :dim]
        logits = looks @ out.weight[:, :, 0, 0] @ before.flatten(2) + looks @ out.bias[:, None]
        if self.config.position:
            logits = logits + embeddings[..., dim:] @ monomials(h, w, before.device).flatten(1)
        return logits.unflatten(2, (h, w))
