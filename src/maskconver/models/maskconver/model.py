"""MaskConver: image → class heatmap, centre embeddings, mask features → masks at the peaks."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...core.categories import Categories
from ...core.config import InputConfig, PostprocessConfig
from ...core.proposals import Proposals
from ...errors import ConfigError
from ..backbones import create_backbone
from ..decoders.aspp import ASPP, ASPPFPN
from ..layers import full_precision
from ..shared import Shareable
from .config import MaskConverConfig
from .heads import MLP, FusingHead, with_class
from .peaks import top_peaks

CENTER_BIAS = -2.19  # sigmoid 0.1006: few centres at the start
POSITION_TERMS = 6  # 1, x, y, x², xy, y²
POSITION_UNIT = 8.0  # cells; offsets of that size are 1 in the quadratic form
POSITION_START = (1.0, 0.0, 0.0, -4.0, 0.0, -4.0)  # a disc of 4 cells radius, before anything is learned


def check_classes(num_classes: int, categories: Categories | None) -> None:
    """Refuses categories that are not as many as the classes."""
    if categories is not None and len(categories) != num_classes:
        raise ConfigError(f"{num_classes} classes but {len(categories)} categories; give one or the other")


def check_channels(images: Tensor, in_channels: int) -> None:
    """Refuses images of another number of channels than the network was made for."""
    if images.shape[1] != in_channels:
        raise ConfigError(
            f"the images have {images.shape[1]} channels, the model takes {in_channels}; "
            f"make it with `in_channels={images.shape[1]}`"
        )


def _check_level(config: MaskConverConfig, channels: dict[int, int]) -> None:
    """Refuses a level of which there is no feature, and one that is not that of unfused maps."""
    top = max(channels)
    if config.level not in channels:
        levels = ", ".join(map(str, sorted(channels)))
        raise ConfigError(f"level {config.level} is none of the backbone {config.backbone}; it has {levels}")
    if config.decoder == "aspp" and config.fusion == "none" and config.level != top:
        raise ConfigError(
            f"with fusion=none the maps are those of the backbone's last level: give level={top}"
        )


class Maps(NamedTuple):
    """What the network says about every cell, at stride 2^level.

    Attributes:
        heatmap_logits: B×C×h×w class heatmap before the sigmoid.
        embedding_map: B×D×h×w centre embeddings.
        mask_features: B×D×h×w.
    """

    heatmap_logits: Tensor
    embedding_map: Tensor
    mask_features: Tensor


class MaskConver(Shareable, nn.Module):
    """Single-scale MaskConver (arXiv 2312.06052; reference page §1–3).

    Args:
        config: the architecture.
        num_classes: things and stuff together; void is not a class.
        categories: the label set, where there is one; it travels with the model.
        name: registered name, kept in model files.
    """

    def __init__(
        self, config: MaskConverConfig, num_classes: int, categories: Categories | None = None, name: str = ""
    ) -> None:
        super().__init__()
        check_classes(num_classes, categories)
        if config.decoder == "aspp" and config.fusion == "sum" and config.low_level_filters != config.filters:
            raise ConfigError(
                f"fusion=sum adds {config.low_level_filters} low-level filters to {config.filters}; "
                "make them equal or use concat"
            )
        self.config, self.categories, self.name, self.num_classes = config, categories, name, num_classes
        momentum = config.bn_momentum
        self.backbone = create_backbone(
            config.backbone, config.in_channels, config.padding, momentum, activation=config.activation
        )
        channels: dict[int, int] = self.backbone.channels  # type: ignore[assignment]
        _check_level(config, channels)
        fuse = config.decoder == "aspp" and config.fusion != "none"
        if config.decoder == "aspp":
            self.decoder: nn.Module = ASPP(
                channels[max(channels)],
                config.filters,
                config.aspp_rates,
                config.aspp_pool_window,
                momentum,
                config.separable,
                config.activation,
            )
        else:
            self.decoder = ASPPFPN(channels, config.filters, config.level, momentum)

        def head(out: int, depth: int, bias: float = 0.0) -> FusingHead:
            return FusingHead(
                config.filters,
                channels[config.level] if fuse else None,
                config.filters,
                out,
                depth,
                config.head_kernel,
                config.fusion,
                config.low_level_filters,
                bias,
                momentum,
                config.separable,
                config.activation,
            )

        dim = config.embedding_dim
        self.class_head = head(num_classes, config.head_depths[0], CENTER_BIAS)
        self.embedding_head = head(dim, config.head_depths[1])
        self.mask_head = head(dim, config.head_depths[2])
        self.class_embedding = nn.Embedding(num_classes, dim) if config.class_embedding != "none" else None
        if self.class_embedding is not None:
            nn.init.uniform_(self.class_embedding.weight, -0.05, 0.05)
        self.mlp = MLP(dim, dim + (POSITION_TERMS if config.position else 0), activation=config.activation)
        if config.position:
            self.mlp.fc2.weight.data[dim:] = 0
            self.mlp.fc2.bias.data[dim:] = torch.tensor(POSITION_START)

    @property
    def input(self) -> InputConfig:
        """How an image is brought to this network."""
        return self.config.input

    @property
    def postprocess(self) -> PostprocessConfig:
        """The thresholds of this model's answer."""
        return self.config.postprocess

    @property
    def stride(self) -> int:
        """Pixels of the canvas a cell of the maps stands for."""
        return 1 << self.config.level

    @property
    def levels(self) -> tuple[int, ...]:
        """log2 of the strides of the heatmaps: one."""
        return (self.config.level,)

    @property
    def level_ranges(self) -> None:
        """The one level answers for every segment."""

    def forward(self, images: Tensor) -> Maps:
        """Normalised images B×C×H×W float to the three maps.

        Raises:
            ConfigError: another number of channels than the config's.
        """
        features = self.features(images)
        return Maps(self.class_head(*features), self.embedding_head(*features), self.mask_head(*features))

    def features(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """What the heads get, of normalised images B×C×H×W float.

        Returns:
            The decoder's output, B×filters×h×w, and the backbone's feature of `level`,
            B×low×H/2^level×W/2^level, with the decoder `aspp`; otherwise None.

        Raises:
            ConfigError: another number of channels than the config's.
        """
        check_channels(images, self.config.in_channels)
        features = self.backbone(images)
        if self.config.decoder == "aspp":
            return self.decoder(features[max(features)]), features[self.config.level]
        return self.decoder(features), None

    def mask_embeddings(self, embedding_map: Tensor, batch: Tensor, cells: Tensor, labels: Tensor) -> Tensor:
        """Mask embeddings of n centres anywhere in the batch: MLP(centre embedding × class embedding), §3.

        Args:
            embedding_map: B×D×h×w.
            batch: n int64, which image.
            cells: n×2 int64 (y, x).
            labels: n int64 in 0…C-1.

        Returns:
            n×D float, or n×(D+6) with `position`: the last six are the quadratic form in absolute cells.
        """
        return self.mask_embeddings_of(embedding_map[batch, :, cells[:, 0], cells[:, 1]], cells, labels)

    def mask_embeddings_of(self, pooled: Tensor, cells: Tensor, labels: Tensor) -> Tensor:
        """`mask_embeddings` of centre embeddings that are read already.

        Args:
            pooled: n×D float.
            cells: n×2 int64 (y, x).
            labels: n int64 in 0…C-1.

        Returns:
            n×D, or n×(D+6) with `position`.
        """
        table = None if self.class_embedding is None else self.class_embedding(labels)
        embeddings = self.mlp(with_class(pooled, table, self.config.class_embedding))
        return _at_center(embeddings, cells) if self.config.position else embeddings

    def mask_basis(self, mask_features: Tensor) -> Tensor:
        """What embeddings multiply: B×D×h×w mask features, with `position` also six monomials of (y, x)."""
        if not self.config.position:
            return mask_features
        b, _, h, w = mask_features.shape
        own = monomials(h, w, mask_features.device).expand(b, -1, -1, -1)
        return torch.cat([mask_features.float(), own], 1)

    def fused(self) -> MaskConver:
        """A copy for inference alone, faster and equal but for rounding: see `fuse.fuse`."""
        from .fuse import fuse

        return fuse(self)

    @torch.no_grad()
    def predict(self, images: Tensor, proposals: int | None = None) -> Proposals:
        """Normalised images B×3×H×W to their best proposals, masks at stride 2^level, no geometry.

        Args:
            images: float, on this model's device.
            proposals: how many; the config's number where None.
        """
        maps = self(images)
        peaks = top_peaks(maps.heatmap_logits, proposals or self.config.proposals, self.config.peak_kernel)
        b, k = peaks.labels.shape
        batch = torch.arange(b, device=images.device).repeat_interleave(k)
        # As in training: half precision would lose the small difference of large terms of the quadratic form.
        with full_precision(images.device.type):
            embeddings = self.mask_embeddings(
                maps.embedding_map.float(), batch, peaks.cells.flatten(0, 1), peaks.labels.flatten()
            )
            basis = self.mask_basis(maps.mask_features.float())
            mask_logits = torch.einsum("bkd,bdhw->bkhw", embeddings.view(b, k, -1), basis)
        return Proposals(peaks.scores, peaks.labels, mask_logits)


def _at_center(embeddings: Tensor, cells: Tensor) -> Tensor:
    """Moves the quadratic form in the last six columns from offsets (dy, dx) to absolute coordinates."""
    e, (c, px, py, pxx, pxy, pyy) = (
        embeddings[:, :-POSITION_TERMS].float(),
        embeddings[:, -POSITION_TERMS:].float().unbind(1),
    )
    y, x = (cells.float() / POSITION_UNIT).unbind(1)
    # p(X - x, Y - y) written out in the monomials 1, X, Y, X², XY, Y²
    moved = torch.stack(
        [
            c - px * x - py * y + pxx * x * x + pxy * x * y + pyy * y * y,
            px - 2 * pxx * x - pxy * y,
            py - pxy * x - 2 * pyy * y,
            pxx,
            pxy,
            pyy,
        ],
        1,
    )
    return torch.cat([e, moved], 1)


def monomials(height: int, width: int, device: torch.device) -> Tensor:
    """6×h×w: 1, x, y, x², xy and y² of every cell."""
    y = (torch.arange(height, device=device) / POSITION_UNIT).view(height, 1).expand(height, width)
    x = (torch.arange(width, device=device) / POSITION_UNIT).view(1, width).expand(height, width)
    return torch.stack([torch.ones_like(x), x, y, x * x, x * y, y * y])
