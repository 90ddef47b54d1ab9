"""A third family of models, as somebody outside the package would write one: each class is one proposal."""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskconver.core.config import InputConfig, PostprocessConfig
from maskconver.core.proposals import Proposals
from maskconver.models import Family, SegmentationModel, register_family, register_model
from maskconver.models.batch import Batch


@dataclass
class ToyConfig:
    """Architecture of a toy.

    Attributes:
        width: channels of its features.
        in_channels: channels of the image.
        proposals: one for each class, at most so many.
        input: how an image is brought to the network.
        postprocess: the thresholds of the answer.
    """

    width: int = 8
    in_channels: int = 3
    proposals: int = 100
    input: InputConfig = field(default_factory=lambda: InputConfig(size=(64, 64)))
    postprocess: PostprocessConfig = field(default_factory=lambda: PostprocessConfig(min_area=0.0))


@dataclass
class ToyLossConfig:
    """What a toy is trained with.

    Attributes:
        weight: of the only term.
    """

    weight: float = 1.0


class Toy(SegmentationModel):
    """Two convolutions, and a mask a class at stride 4."""

    stride = 4  # type: ignore[assignment]

    def __init__(self, config: ToyConfig, num_classes: int, categories: Any = None, name: str = "") -> None:
        super().__init__(config, num_classes, categories, name=name)
        self.backbone = nn.Conv2d(config.in_channels, config.width, 5, stride=4, padding=2)
        self.head = nn.Conv2d(config.width, num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """B×C×H×W to B×K×H/4×W/4 logits."""
        self.check_channels(images)
        return self.head(self.backbone(images).relu())

    @torch.no_grad()
    def predict(self, images: Tensor, proposals: int | None = None) -> Proposals:
        """See `SegmentationModel.predict`."""
        logits = self(images)
        scores, labels = logits.sigmoid().amax((2, 3)).sort(1, descending=True)
        chosen = logits.gather(1, labels[..., None, None].expand_as(logits))
        number = proposals or self.config.proposals
        return Proposals(scores[:, :number], labels[:, :number], chosen[:, :number])


class ToyCriterion(nn.Module):
    """Cross-entropy of every pixel."""

    def __init__(self, model: Toy, loss: ToyLossConfig, **_: Any) -> None:
        super().__init__()
        self.weight = loss.weight

    def forward(self, model: Toy, output: Tensor, batch: Batch, **_: Any) -> dict[str, Tensor]:
        """The weighted term; pixels of no target are left out."""
        regions = batch.regions[:, 2::4, 2::4]
        truth = torch.full_like(regions, -1, dtype=torch.long)
        for image, region, label in zip(batch.batch, batch.region, batch.labels):
            truth[image][regions[image] == region] = label
        return {"pixels": self.weight * F.cross_entropy(output, truth, ignore_index=-1)}


def optimize(model: Toy, **_: Any) -> Toy:
    """There is nothing to make faster."""
    return copy.deepcopy(model).eval()


FAMILY = register_family(
    Family("toy", {"toy": (ToyConfig, Toy)}, ToyLossConfig, ToyCriterion, re.compile(r"head\..*"), optimize)
)


@register_model()
def toy_64() -> ToyConfig:
    """Two convolutions, 64 px."""
    return ToyConfig()
