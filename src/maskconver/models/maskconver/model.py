"""MaskConver: image → class heatmaps, centre embeddings, mask features → masks at the peaks."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...core.categories import Categories
from ...core.proposals import Proposals
from ...errors import ConfigError
from ..base import SegmentationModel
from ..layers import full_precision, pad_to_multiple
from ..topk import TopK, stable_topk
from . import position
from .config import MaskConverConfig, MultiScaleConfig, MultiScaleTraining
from .heads import MLP, with_class
from .peaks import Peaks, at_cells, top_peaks
from .pyramid import multi_scale, single_scale
from .semantic import with_stuff

SEMANTIC_DEPTH = 1  # convolutions of the semantic head
LEAST = 1e-12  # of a probability whose logarithm is taken
CENTER_BIAS = -2.19  # sigmoid 0.1006: few centres at the start


class Features(NamedTuple):
    """What the heads take.

    Attributes:
        pyramid: B×filters×h×w of every level, finest first.
        masks: B×filters×h×w, what the mask head takes.
        detail: the backbone's feature that the heads take in; None where they take in none.
    """

    pyramid: tuple[Tensor, ...]
    masks: Tensor
    detail: Tensor | None


class Maps(NamedTuple):
    """What the network says, level by level, finest first; a single-scale model has one level.

    Attributes:
        heatmap_logits: a B×C×h×w class heatmap a level, before the sigmoid.
        embedding_map: B×D×h×w centre embeddings a level.
        mask_features: B×D×h×w, at `MaskConver.stride`.
        semantic_logits: B×C×h×w class of every cell before the softmax, of a model with `stuff: semantic`.
    """

    heatmap_logits: tuple[Tensor, ...]
    embedding_map: tuple[Tensor, ...]
    mask_features: Tensor
    semantic_logits: Tensor | None = None


class MaskConver(SegmentationModel):
    """MaskConver (arXiv 2312.06052), of one level or a pyramid of them.

    Args:
        config: the architecture; its type says which of both.
        num_classes: things and stuff together; void is not a class.
        categories: the label set, where there is one; it travels with the model.
        name: registered name, kept in model files.
        training: what only training knows, of models of several levels; no stochastic depth where None.

    Raises:
        ConfigError: `stuff: semantic` without categories, which say what is stuff.
    """

    config: MaskConverConfig | MultiScaleConfig
    flips = True

    def __init__(
        self,
        config: MaskConverConfig | MultiScaleConfig,
        num_classes: int,
        categories: Categories | None = None,
        *,
        name: str = "",
        training: MultiScaleTraining | None = None,
    ) -> None:
        super().__init__(config, num_classes, categories, name=name)
        if isinstance(config, MaskConverConfig):
            parts = single_scale(config)
        else:
            parts = multi_scale(config, training.drop_path if training else 0.0)
        self.detail, self.multiple = parts.detail, parts.multiple
        self.backbone, self.decoder = parts.backbone, parts.decoder
        dim, (class_depth, embedding_depth, mask_depth) = config.embedding_dim, config.head_depths
        self.class_head = parts.heads(num_classes, class_depth, CENTER_BIAS)
        self.embedding_head = parts.heads(dim, embedding_depth)
        self.stuff_classes: tuple[int, ...] = ()  # of the semantic head
        self.semantic_head: nn.Module | None = None
        if config.stuff == "semantic":
            if categories is None:
                raise ConfigError(
                    "stuff=semantic needs to know which classes are stuff: create the model with categories"
                )
            self.stuff_classes = tuple((~categories.is_thing).nonzero()[0].tolist())
        self.mask_fusion = parts.mask_fusion()
        self.mask_head = parts.mask_head(dim, mask_depth)
        if config.stuff == "semantic":
            self.semantic_head = parts.heads(num_classes, SEMANTIC_DEPTH)
        self.class_embedding = nn.Embedding(num_classes, dim) if config.class_embedding != "none" else None
        if self.class_embedding is not None:
            nn.init.uniform_(self.class_embedding.weight, -0.05, 0.05)
        more = position.TERMS if config.position else 0
        self.mlp = MLP(dim, dim + more, config.mlp_hidden, activation=config.activation)
        if config.position:
            self.mlp.fc2.weight.data[dim:] = 0
            self.mlp.fc2.bias.data[dim:] = torch.tensor(position.START)
        if config.frozen_bn:
            for norm in self._backbone_norms():
                norm.requires_grad_(False)

    def _backbone_norms(self) -> list[nn.Module]:
        return [m for m in self.backbone.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]

    def train(self, mode: bool = True) -> MaskConver:
        """As in `nn.Module`, but frozen batch norms go on using the statistics they have."""
        super().train(mode)
        if self.config.frozen_bn:
            for norm in self._backbone_norms():
                norm.eval()
        return self

    @property
    def levels(self) -> tuple[int, ...]:
        """log2 of the strides of the heatmaps, finest first."""
        return self.config.levels

    @property
    def level_ranges(self) -> tuple[tuple[float, float], ...] | None:
        """Which segments each level answers for, see `targets.assign_levels`; None where one has them all."""
        return self.config.level_ranges

    @property
    def stride(self) -> int:
        """Pixels of the network input a cell of the masks stands for."""
        return 1 << self.config.mask_level

    @property
    def first_stay_first(self) -> bool:
        """False with a semantic head, whose masks lie among those of the centres, however many these are."""
        return not self.stuff_classes

    def forward(self, images: Tensor) -> Maps:
        """Normalised images B×C×H×W float to the maps of every level.

        With several levels, sides that are no multiple of 32 are padded right and below with zeros; the maps
        cover the padding.

        Raises:
            ConfigError: another number of channels than the config's.
        """
        features = self.features(images)
        return Maps(
            self._on_levels(self.class_head, features),
            self._on_levels(self.embedding_head, features),
            self.mask_head(features.masks, features.detail),
            self.semantic_logits(features),
        )

    def semantic_logits(self, features: Features) -> Tensor | None:
        """B×C×h×w class of every cell before the softmax; None without a semantic head."""
        if self.semantic_head is None:
            return None
        logits: Tensor = self.semantic_head(features.pyramid[0], features.detail)
        return logits

    def peaks(
        self, heatmap_logits: tuple[Tensor, ...], proposals: int | None = None, *, topk: TopK = stable_topk
    ) -> Peaks:
        """The best centres of an image; with a semantic head those of things, fewer by the stuff classes.

        Args:
            heatmap_logits: B×C×h×w of every level.
            proposals: number of masks per image; the config's number where None.
            topk: how scores are ranked.
        """
        count, kernel = proposals or self.config.proposals, self.config.peak_kernel
        if not self.stuff_classes:
            return top_peaks(heatmap_logits, count, kernel, topk=topk)
        things = torch.tensor(
            [c for c in range(self.num_classes) if c not in self.stuff_classes],
            dtype=torch.long,
            device=heatmap_logits[0].device,
        )
        of_things = [logits.index_select(1, things) for logits in heatmap_logits]
        peaks = top_peaks(of_things, max(count - len(self.stuff_classes), 1), kernel, topk=topk)
        return peaks._replace(labels=things[peaks.labels])

    def features(self, images: Tensor) -> Features:
        """What the heads take, of normalised images B×C×H×W float.

        Raises:
            ConfigError: another number of channels than the config's.
        """
        self.check_channels(images)
        if self.multiple > 1:
            images = pad_to_multiple(images, self.multiple)
        features = self.backbone(images)
        pyramid = tuple(self.decoder(features).values())
        masks = pyramid[0]
        if self.mask_fusion is not None:
            masks = self.mask_fusion(pyramid, [n // self.stride for n in images.shape[-2:]])
        return Features(pyramid, masks, None if self.detail is None else features[self.detail])

    def _on_levels(self, heads: nn.Module, features: Features) -> tuple[Tensor, ...]:
        """One head on every level, or every level's own."""
        own = [heads[str(n)] if isinstance(heads, nn.ModuleDict) else heads for n in self.levels]
        return tuple(h(x, features.detail, n) for h, x, n in zip(own, features.pyramid, self.levels))

    def mask_embeddings(
        self, embedding_map: tuple[Tensor, ...], image: Tensor, cells: Tensor, *, labels: Tensor
    ) -> Tensor:
        """Mask embeddings of n centres: MLP of the centre embedding and the class embedding (§3).

        Args:
            embedding_map: B×D×h×w of every level.
            image: (n,) int64.
            cells: n×3 int64 (index of the level, y, x).
            labels: (n,) int64 in 0…C-1.

        Returns:
            n×D float32, or n×(D+6) with `position`: the last six are the quadratic form in absolute cells.
        """
        return self.mask_embeddings_of(at_cells(embedding_map, image, cells).float(), cells, labels)

    def mask_embeddings_of(self, pooled: Tensor, cells: Tensor, labels: Tensor) -> Tensor:
        """`mask_embeddings` of centre embeddings that are read already.

        Args:
            pooled: n×D float.
            cells: n×3 int64 (index of the level, y, x).
            labels: (n,) int64 in 0…C-1.
        """
        table = None if self.class_embedding is None else self.class_embedding(labels)
        embeddings = self.mlp(with_class(pooled, table, self.config.class_embedding))
        return position.at_centers(embeddings, cells[:, 1:]) if self.config.position else embeddings

    def mask_basis(self, mask_features: Tensor) -> Tensor:
        """What embeddings multiply: B×D×h×w mask features, with `position` also six monomials of (y, x)."""
        if not self.config.position:
            return mask_features
        b, _, h, w = mask_features.shape
        own = position.monomials(h, w, mask_features.device).expand(b, -1, -1, -1)
        return torch.cat([mask_features.float(), own], 1)

    @torch.no_grad()
    def predict(self, images: Tensor, proposals: int | None = None, *, topk: TopK = stable_topk) -> Proposals:
        """Normalised images B×C×H×W to their best proposals of all levels, no geometry.

        Args:
            images: float, on this model's device.
            proposals: how many; the config's number where None.
            topk: how peaks are ranked; only graphs of other runtimes need another way.

        Returns:
            Masks of B×k×⌈H/stride⌉×⌈W/stride⌉.
        """
        maps = self(images)
        peaks = self.peaks(maps.heatmap_logits, proposals, topk=topk)
        mask_logits = self.masks_at(maps, peaks)
        mask_logits = self.without_padding(mask_logits, images)
        things = Proposals(peaks.scores, peaks.labels, mask_logits)
        semantic = maps.semantic_logits
        if semantic is not None:
            semantic = self.without_padding(semantic, images)
        return with_stuff(things, semantic, self.stuff_classes, agreement=self.config.agreement, topk=topk)

    def masks_at(self, maps: Maps, peaks: Peaks) -> Tensor:
        """The mask logits B×k×h×w of k peaks an image, with what covers the images' padding."""
        b, k = peaks.labels.shape
        device = peaks.labels.device
        image = torch.arange(b, device=device)[:, None].expand(b, k).flatten()
        # As in training: half precision would lose the small difference of large terms of the quadratic form.
        with full_precision(device.type):
            embeddings = self.mask_embeddings(
                maps.embedding_map, image, peaks.cells.flatten(0, 1), labels=peaks.labels.flatten()
            )
            basis = self.mask_basis(maps.mask_features.float())
            return torch.einsum("bkd,bdhw->bkhw", embeddings.unflatten(0, (b, k)), basis)

    @torch.no_grad()
    def predict_flipped(
        self, images: Tensor, proposals: int | None = None, *, topk: TopK = stable_topk
    ) -> Proposals:
        """As `predict`, averaged over each image and its mirror image before anything is decided (ours).

        Class heatmaps are averaged as probabilities, before peaks are taken. The mask logits of a peak are
        the mean of those that either image gives: from the embedding at the peak's cell, and at its mirror
        cell. The classes of a semantic head are averaged as probabilities.
        """
        # Cells mirror onto cells where every level divides the sides.
        padded = pad_to_multiple(images, max(1 << max(self.levels), self.stride, self.multiple))
        plain, mirrored = self(padded), self(padded.flip(-1))
        pairs = zip(plain.heatmap_logits, mirrored.heatmap_logits)
        heatmaps = tuple(_flipped_mean(a.float().sigmoid(), b.float().sigmoid()).logit() for a, b in pairs)
        peaks = self.peaks(heatmaps, proposals, topk=topk)
        widths = torch.tensor([m.shape[-1] for m in heatmaps], device=images.device)
        level, y, x = peaks.cells.unbind(-1)
        across = peaks._replace(cells=torch.stack([level, y, widths[level] - 1 - x], -1))
        masks = _flipped_mean(self.masks_at(plain, peaks), self.masks_at(mirrored, across))
        height, width = (-(-n // self.stride) for n in images.shape[-2:])
        things = Proposals(peaks.scores, peaks.labels, masks[..., :height, :width])
        semantic, other = plain.semantic_logits, mirrored.semantic_logits
        if semantic is not None and other is not None:
            mean = _flipped_mean(semantic.float().softmax(1), other.float().softmax(1))
            semantic = mean.clamp(min=LEAST).log()[..., :height, :width]
        return with_stuff(things, semantic, self.stuff_classes, agreement=self.config.agreement, topk=topk)

    def without_padding(self, masks: Tensor, images: Tensor) -> Tensor:
        """Maps at the masks' stride, B×…×⌈H/stride⌉×⌈W/stride⌉: cut where the network padded the images."""
        if self.multiple == 1:
            return masks
        height, width = (-(-n // self.stride) for n in images.shape[-2:])
        return masks[..., :height, :width]


def _flipped_mean(plain: Tensor, mirrored: Tensor) -> Tensor:
    """The mean of a map of an image and of one of its mirror image."""
    return (plain + mirrored.flip(-1)) / 2
