"""Multi-scale MaskConver: image → pyramid P3…P7 → centres on every level, masks at stride 4."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...core.categories import Categories
from ...core.proposals import Proposals
from ...errors import ConfigError
from ..backbones import create_backbone
from ..base import SegmentationModel
from ..fold import folded
from ..layers import full_precision, pad_to_multiple
from .config import MultiScaleConfig
from .heads import MLP, Head, PanopticFPNFusion, SumFusion, with_class
from .model import CENTER_BIAS, MaskConver
from .peaks import pyramid_peaks
from .pyramid import PixelDecoder

MASK_LEVEL, FINEST = 2, 3  # stride 4 of the masks, stride 8 of the finest feature the decoders take


class PyramidMaps(NamedTuple):
    """What the network says, level by level, finest first.

    Attributes:
        heatmap_logits: a B×C×h×w class heatmap a level, before the sigmoid.
        embedding_map: B×D×h×w centre embeddings a level.
        mask_features: B×D×H/4×W/4.
    """

    heatmap_logits: tuple[Tensor, ...]
    embedding_map: tuple[Tensor, ...]
    mask_features: Tensor


class MultiScaleMaskConver(SegmentationModel):
    """Multi-scale MaskConver (multi-scale page §1).

    Args:
        config: the architecture.
        num_classes: things and stuff together; void is not a class.
        categories: the label set, where there is one; it travels with the model.
        name: registered name, kept in model files.
    """

    config: MultiScaleConfig

    def __init__(
        self, config: MultiScaleConfig, num_classes: int, categories: Categories | None = None, name: str = ""
    ) -> None:
        super().__init__(config, num_classes, categories, name)
        if len(config.level_ranges) != len(config.levels):
            raise ConfigError(
                f"{len(config.levels)} levels but {len(config.level_ranges)} level_ranges; "
                "give one range a level"
            )
        if list(config.levels) != list(range(config.levels[0], config.levels[0] + len(config.levels))):
            raise ConfigError(f"levels {config.levels} have gaps; give them finest first, as in 3, 4, 5")
        if not FINEST <= config.levels[0] <= 5:
            raise ConfigError(f"the finest level is {config.levels[0]}; it can be {FINEST}, 4 or 5")
        # Stochastic depth rises over res2…res5 and the UNet's levels 5, 4, 3 (§1.1).
        rates = tuple(config.drop_path * (i + 2) / 8 for i in range(7))
        self.backbone = create_backbone(
            config.backbone,
            config.in_channels,
            config.padding,
            config.bn_momentum,
            output_stride=32,
            activation=config.backbone_activation,
            drop_rates=rates[:4],
        )
        channels: dict[int, int] = self.backbone.channels  # type: ignore[assignment]
        self.decoder = PixelDecoder(config, {n: channels[n] for n in (3, 4, 5)}, rates[4:])

        def head(out: int, depth: int, levels: tuple[int, ...] = (), bias: float = 0.0) -> Head:
            return Head(
                config.filters,
                config.filters,
                out,
                depth,
                config.head_kernel,
                separable=config.separable,
                activation=config.activation,
                levels=levels,
                bias=bias,
            )

        def heads(out: int, depth: int, bias: float = 0.0) -> nn.Module:
            if config.shared_heads:
                return head(out, depth, config.levels, bias)
            return nn.ModuleDict({str(n): head(out, depth, (n,), bias) for n in config.levels})

        dim = config.embedding_dim
        self.class_head = heads(num_classes, config.head_depths[0], CENTER_BIAS)
        self.embedding_head = heads(dim, config.head_depths[1])
        self.mask_fusion = (
            SumFusion()
            if config.mask_fusion == "sum"
            else PanopticFPNFusion(
                config.filters, config.levels, config.filters, MASK_LEVEL, config.activation
            )
        )
        self.mask_head = head(dim, config.head_depths[2])
        self.class_embedding = nn.Embedding(num_classes, dim) if config.class_embedding != "none" else None
        if self.class_embedding is not None:
            nn.init.uniform_(self.class_embedding.weight, -0.05, 0.05)
        self.mlp = MLP(dim, dim, config.mlp_hidden, config.activation)
        if config.frozen_bn:
            for norm in self._backbone_norms():
                norm.requires_grad_(False)

    def _backbone_norms(self) -> list[nn.Module]:
        return [m for m in self.backbone.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]

    def train(self, mode: bool = True) -> MultiScaleMaskConver:
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
    def level_ranges(self) -> tuple[tuple[float, float], ...]:
        """Which segments each level answers for, see `MultiScaleConfig`."""
        return self.config.level_ranges

    @property
    def stride(self) -> int:
        """Pixels of the canvas a cell of the masks stands for."""
        return 1 << MASK_LEVEL

    def forward(self, images: Tensor) -> PyramidMaps:
        """Normalised images B×C×H×W float to the maps of every level.

        Sides that are no multiple of 32 are padded right and below with zeros; the maps cover the padding.

        Raises:
            ConfigError: another number of channels than the config's.
        """
        self.check_channels(images)
        images = pad_to_multiple(images, 32)
        pyramid = self.decoder(self.backbone(images))

        def apply(heads: nn.Module) -> tuple[Tensor, ...]:
            if isinstance(heads, nn.ModuleDict):
                return tuple(heads[str(n)](x, n) for n, x in pyramid.items())
            return tuple(heads(x, n) for n, x in pyramid.items())

        size = [n // self.stride for n in images.shape[-2:]]
        fused = self.mask_fusion(list(pyramid.values()), size)
        return PyramidMaps(apply(self.class_head), apply(self.embedding_head), self.mask_head(fused))

    def mask_embeddings(
        self, embedding_map: tuple[Tensor, ...], batch: Tensor, cells: Tensor, labels: Tensor
    ) -> Tensor:
        """Mask embeddings of n centres: MLP(centre embedding + class embedding), §1.5.

        Args:
            embedding_map: B×D×h×w of every level.
            batch: n int64, which image.
            cells: n×3 int64 (index of the level, y, x).
            labels: n int64 in 0…C-1.

        Returns:
            n×D.
        """
        level, y, x = cells.unbind(1)
        sizes = [(m.shape[-2], m.shape[-1]) for m in embedding_map]
        widths = torch.tensor([w for _, w in sizes], device=cells.device)
        starts = torch.tensor([0, *(h * w for h, w in sizes)], device=cells.device).cumsum(0)
        positions = torch.cat([m.flatten(2) for m in embedding_map], 2)
        pooled = positions[batch, :, starts[level] + y * widths[level] + x]
        table = None if self.class_embedding is None else self.class_embedding(labels)
        return self.mlp(with_class(pooled, table, self.config.class_embedding))

    def mask_basis(self, mask_features: Tensor) -> Tensor:
        """What embeddings multiply: the mask features themselves."""
        return mask_features

    def fused(self) -> MultiScaleMaskConver:
        """A copy for inference alone, faster and equal but for rounding: batch norms folded."""
        return folded(self, self.config.in_channels)

    @torch.no_grad()
    def predict(self, images: Tensor, proposals: int | None = None) -> Proposals:
        """Normalised images B×C×H×W to their best proposals of all levels, masks at stride 4, no geometry.

        Args:
            images: float, on this model's device.
            proposals: how many; the config's number where None.
        """
        maps = self(images)
        peaks = pyramid_peaks(
            maps.heatmap_logits, proposals or self.config.proposals, self.config.peak_kernel
        )
        b, k = peaks.labels.shape
        batch = torch.arange(b, device=images.device).repeat_interleave(k)
        with full_precision(images.device.type):
            embeddings = self.mask_embeddings(
                tuple(m.float() for m in maps.embedding_map),
                batch,
                peaks.cells.flatten(0, 1),
                peaks.labels.flatten(),
            )
            basis = self.mask_basis(maps.mask_features.float())
            mask_logits = torch.einsum("bkd,bdhw->bkhw", embeddings.view(b, k, -1), basis)
        height, width = (-(-n // self.stride) for n in images.shape[-2:])
        return Proposals(peaks.scores, peaks.labels, mask_logits[..., :height, :width])


CenterModel = MaskConver | MultiScaleMaskConver  # what finds regions as centre points
