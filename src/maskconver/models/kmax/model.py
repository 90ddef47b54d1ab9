"""kMaX-DeepLab: image → pixel decoder → k-means of pixels around learned queries → one mask per query."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...core.categories import Categories
from ...core.proposals import Proposals
from ...errors import ConfigError
from ..backbones.resnet import ResNet
from ..backbones.timm import CHANNELS as MOBILENETS
from ..backbones.timm import SIZES, ExpandedMobileNetV3, PaddedConvNeXt
from ..base import SegmentationModel
from ..layers import BN_EPS
from ..topk import TopK, stable_topk
from .config import BACKBONES, KMaXConfig, KMaXTraining, ReMaXConfig
from .decoder import KMeansDecoder
from .gate import MaskGate, Prediction
from .max_s import MaXS
from .pixel_decoder import PixelDecoder
from .semantic import SemanticDecoder, SemanticHead


class KMaXOutput(NamedTuple):
    """What the network says about its N queries.

    Attributes:
        final: the prediction that is the answer: class logits B×N×(K+1), mask logits B×N×H/4×W/4, pixel
            feature B×128×H/4×W/4 (stride 2 with `fifth_stage: tensorflow` on a stem of stride 2).
        layers: the predictions of the k-means layers, coarsest first, each at its own stride; without class
            logits outside training, unless asked for.
        semantic_logits: B×(K+1)×H/4×W/4 of the auxiliary head (K channels and stride 32 where it is
            `simple`); None outside training, unless asked for.
    """

    final: Prediction
    layers: tuple[Prediction, ...]
    semantic_logits: Tensor | None


def create_backbone(config: KMaXConfig, drop_path: float = 0.0) -> nn.Module:
    """The backbone of a config: images to `{level: feature}`, with the stem as level 1 for a fifth stage."""
    name, stem, momentum = config.backbone, config.fifth_stage != "none", config.bn_momentum
    if name == "resnet50":
        stride = config.resnet_layout == "stride"
        return ResNet(
            config.in_channels,
            config.padding,
            momentum=momentum,
            activation="relu",
            eps=BN_EPS,
            pool=not stride,
            raw=stride,
            stem=stem,
        )
    if name == "max_s":
        return MaXS(config.in_channels, config.padding, momentum=momentum, drop_path=drop_path, stem=stem)
    if name in SIZES:
        depths, dims = SIZES[name]
        return PaddedConvNeXt(depths, dims, config.in_channels, drop_path=drop_path, stem=stem)
    if name in MOBILENETS:
        return ExpandedMobileNetV3(
            name, config.in_channels, config.padding, momentum=momentum, gate=config.gate, stem=stem
        )
    raise ConfigError(f'no backbone "{name}" for kMaX-DeepLab; there are {", ".join(BACKBONES)}')


class KMaXDeepLab(SegmentationModel):
    """kMaX-DeepLab (arXiv 2207.04044).

    Args:
        config: the architecture.
        num_classes: things and stuff together, K; void is not a class.
        categories: the label set, where there is one; it travels with the model.
        name: registered name, kept in model files.
        training: what only training knows; no stochastic depth where None.
    """

    training_only = ("semantic_head", "kept_gates")  # not of the inference network, nor counted

    config: KMaXConfig

    def __init__(
        self,
        config: KMaXConfig,
        num_classes: int,
        categories: Categories | None = None,
        *,
        name: str = "",
        training: KMaXTraining | None = None,
    ) -> None:
        super().__init__(config, num_classes, categories, name=name)
        training = training or KMaXTraining()
        if config.proposals < 1:
            raise ConfigError(f"{config.proposals} proposals; a kMaX-DeepLab needs at least one query")
        momentum = config.bn_momentum
        self.backbone = create_backbone(config, training.backbone_drop_path)
        channels: dict[int, int] = self.backbone.channels  # type: ignore[assignment]
        self.levels = (5, 4, 3, 2) if config.fifth_stage == "none" else (5, 4, 3, 2, 1)
        if config.fifth_stage == "pytorch" and config.backbone == "resnet50":
            self.levels = (5, 4, 3, 1, 2)  # its stem is declared as coarse as res2, and sorted before it
        blocks = (*config.pixel_blocks, 1)
        self.pixel_decoder = PixelDecoder(
            [channels[level] for level in self.levels], blocks=blocks, momentum=momentum
        )
        remax = config.remask_at_test
        self.kept_gates: nn.ModuleList | None = None
        self.decoder = KMeansDecoder(
            self.pixel_decoder.channels,
            config.decoder_layers,
            config.proposals,
            num_classes=num_classes,
            drop=training.drop_path,
            momentum=momentum,
            gates=self._gates(remax),
        )
        if config.remask_kept is not None:
            self.kept_gates = nn.ModuleList(self._gates(config.remask_kept))
        for predictor in (self.decoder.predictor, *(layer.predictor for layer in self.decoder.layers)):
            nn.init.constant_(predictor.mask_bn.weight, training.mask_start[0])  # type: ignore[union-attr, arg-type]
            nn.init.constant_(predictor.mask_bn.bias, training.mask_start[1])  # type: ignore[union-attr, arg-type]
        self.semantic_head: SemanticDecoder | SemanticHead | None = None
        if config.semantic == "aspp":
            self.semantic_head = SemanticDecoder(channels, num_classes + 1, momentum)
        elif config.semantic == "simple":
            self.semantic_head = SemanticHead(channels, num_classes, momentum)

    def _gates(self, remax: ReMaXConfig | None) -> list[MaskGate]:
        """A gate for each layer whose masks are relaxed."""
        config = self.config
        count = 0 if remax is None else min(remax.remask_layers, sum(config.decoder_layers))
        return [MaskGate(remax, self.num_classes, config.bn_momentum) for _ in range(count) if remax]

    def keep(self, gates: nn.ModuleList, remax: ReMaXConfig) -> None:
        """Makes the branches of a criterion a part of this model and its files, which inference leaves alone.

        Args:
            gates: one for each of the first layers; none to keep none.
            remax: the choices they were made with.
        """
        self.kept_gates = gates if len(gates) else None
        self.config = replace(self.config, remask_kept=remax if len(gates) else None)

    def with_remask(self) -> KMaXDeepLab:
        if self.config.remask_at_test is not None:
            return self
        if self.kept_gates is None:
            return super().with_remask()  # type: ignore[return-value]
        other = copy.deepcopy(self)
        gates, remax = other.kept_gates, other.config.remask_kept
        assert gates is not None
        for layer, gate in zip(other.decoder.layers, gates):
            layer.gate = gate
        other.kept_gates = None
        other.config = replace(other.config, remask_at_test=remax, remask_kept=None)
        return other

    @property
    def stride(self) -> int:
        """Pixels of the network input that a cell of the masks stands for."""
        return 2 if self.levels[-1] == 1 and self.config.backbone not in SIZES else 4

    def forward(self, images: Tensor, deep: bool | None = None) -> KMaXOutput:
        """Normalised images B×C×H×W float, of any size, to predictions.

        Args:
            images: of the config's number of channels.
            deep: what only losses need too: the layers' class logits and the semantic logits; None gives
                them in training.

        Raises:
            ConfigError: another number of channels than the config's.
        """
        self.check_channels(images)
        deep = self.training if deep is None else deep
        features = self.backbone(images)
        stages = self.pixel_decoder([features[level] for level in self.levels])
        final, layers = self.decoder(stages, deep)
        semantic = self.semantic_head(features) if deep and self.semantic_head is not None else None
        return KMaXOutput(final, layers, semantic)

    @torch.no_grad()
    def predict(self, images: Tensor, proposals: int | None = None, *, topk: TopK = stable_topk) -> Proposals:
        """Normalised images B×C×H×W to their proposals, no geometry.

        Args:
            images: float, on this model's device.
            proposals: only so many, the best; all queries where None. Masks compete by a softmax over the
                queries: leaving some out changes what the others get.
            topk: how queries are ranked; only graphs of other runtimes need another way.

        Raises:
            ConfigError: more proposals than queries.
        """
        final = self(images, deep=False).final
        return best_queries(final, self.config.proposals, proposals, topk=topk)


def best_queries(
    final: Prediction, queries: int, number: int | None = None, *, topk: TopK = stable_topk
) -> Proposals:
    """The queries of a final prediction as proposals, best first.

    A query's score is the largest softmax over the K+1 class logits of a real class; that class is its label.

    Args:
        final: of B images.
        queries: how many there are.
        number: how many are given; all where None.
        topk: how they are ranked.

    Raises:
        ConfigError: more proposals than queries.
    """
    number = number or queries
    if number > queries:
        raise ConfigError(f"{number} proposals of a model with {queries} queries")
    assert final.class_logits is not None
    best, labels = final.class_logits.float().softmax(-1)[..., :-1].max(-1)
    order = topk(best, number)

    def of_queries(values: Tensor) -> Tensor:
        index = order.view(*order.shape, *[1] * (values.dim() - 2)).expand(-1, -1, *values.shape[2:])
        return values.gather(1, index)

    return Proposals(
        best.gather(1, order),
        labels.gather(1, order),
        of_queries(final.mask_logits.float()),
        of_queries(final.class_logits.float()),
    )
