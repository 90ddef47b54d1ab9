"""A third family of models, as somebody outside the package would write one: each class is one proposal."""

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
    width: int = 8
    in_channels: int = 3
    proposals: int = 100
    input: InputConfig = field(default_factory=lambda: InputConfig(size=(64, 64)))
    postprocess: PostprocessConfig = field(default_factory=lambda: PostprocessConfig(min_area=0.0))


@dataclass
class ToyLossConfig:
    weight: float = 1.0


class Toy(SegmentationModel):
    stride = 4  # type: ignore[assignment]

    def __init__(self, config: ToyConfig, num_classes: int, categories: Any = None, name: str = "") -> None:
        super().__init__(config, num_classes, categories, name=name)
        self.backbone = nn.Conv2d(config.in_channels, config.width, 5, stride=4, padding=2)
        self.head = nn.Conv2d(config.width, num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        self.check_channels(images)
        return self.head(self.backbone(images).relu())

    @torch.no_grad()
    def predict(self, images: Tensor, proposals: int | None = None) -> Proposals:
        logits, number = self(images), proposals or self.config.proposals
        scores, labels = logits.sigmoid().amax((2, 3)).sort(1, descending=True)
        masks = logits.gather(1, labels[..., None, None].expand_as(logits))
        return Proposals(scores[:, :number], labels[:, :number], masks[:, :number])


class ToyCriterion(nn.Module):
    def __init__(self, model: Toy, loss: ToyLossConfig, **_: Any) -> None:
        super().__init__()
        self.weight = loss.weight

    def forward(self, model: Toy, output: Tensor, batch: Batch, **_: Any) -> dict[str, Tensor]:
        regions = batch.regions[:, 2::4, 2::4]
        truth = torch.full_like(regions, -1, dtype=torch.long)
        for image, region, label in zip(batch.batch, batch.region, batch.labels):
            truth[image][regions[image] == region] = label
        return {"pixels": self.weight * F.cross_entropy(output, truth, ignore_index=-1)}


def optimize(model: Toy, **_: Any) -> Toy:
    return copy.deepcopy(model).eval()


FAMILY = register_family(
    Family("toy", {"toy": (ToyConfig, Toy)}, ToyLossConfig, ToyCriterion, re.compile(r"head\..*"), optimize)
)


@register_model()
def toy_64() -> ToyConfig:
    return ToyConfig()
