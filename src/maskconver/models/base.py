"""What every model is, and what a family of models brings with it."""

from __future__ import annotations

import dataclasses
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from ..core.categories import Categories
from ..core.config import InputConfig, PostprocessConfig
from ..core.proposals import Proposals
from ..errors import ConfigError
from .topk import TopK, stable_topk


def _function(name: str) -> Callable[..., None]:
    """Stands for a method that is a function of the package now."""

    def method(self: Any, *_: Any, **__: Any) -> None:
        raise ConfigError(f"{name} is a function now: maskconver.{name}(model, …)")

    return method


class SegmentationModel(nn.Module, ABC):
    """A network that answers an image with scored masks: what predictor, training and export know of it.

    Args:
        config: the architecture, a dataclass with `in_channels`, `proposals`, `input` and `postprocess`.
        num_classes: things and stuff together; void is not a class.
        categories: the label set, where there is one; it travels with the model.
        name: registered name, kept in model files.

    Attributes:
        family: what the model belongs to; set when its family is registered.
        backbone: gives features by level; may start from weights of others.
        training_only: names of modules that only training uses, and that are not counted as parameters.
        flips: whether it also has `predict_flipped`, which takes what `predict` takes and averages over each
            image and its mirror image.

    Raises:
        ConfigError: no classes, or another number of categories than of classes.
    """

    family: ClassVar[Family]
    training_only: ClassVar[tuple[str, ...]] = ()
    flips: ClassVar[bool] = False
    config: Any
    backbone: nn.Module

    def __init__(
        self, config: Any, num_classes: int, categories: Categories | None = None, *, name: str = ""
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise ConfigError(f"a model of {num_classes} classes is not possible; give 1 or more")
        if categories is not None and len(categories) != num_classes:
            raise ConfigError(
                f"{num_classes} classes but {len(categories)} categories; give one or the other"
            )
        self.config, self.num_classes, self.categories, self.name = config, num_classes, categories, name

    @property
    def input(self) -> InputConfig:
        """How an image is brought to this network."""
        own: InputConfig = self.config.input
        return own

    @property
    def postprocess(self) -> PostprocessConfig:
        """The thresholds with which this model's proposals become an answer."""
        own: PostprocessConfig = self.config.postprocess
        return own

    @property
    @abstractmethod
    def stride(self) -> int:
        """Pixels of the network input that a cell of the mask logits stands for."""

    @property
    def first_stay_first(self) -> bool:
        """Whether asking for more proposals only adds others after those there were."""
        return self.family.limits.fewer_proposals

    @abstractmethod
    def predict(self, images: Tensor, proposals: int | None = None) -> Proposals:
        """Normalised images B×C×H×W float, on this model's device, to their best proposals, no geometry.

        Args:
            images: of the config's number of channels.
            proposals: how many; the config's number where None.
        """

    def optimized(self, *, topk: TopK = stable_topk) -> SegmentationModel:
        """A model for inference alone, in evaluation mode, faster and equal but for rounding; this one stays.

        Args:
            topk: how scores are ranked: see `topk`.
        """
        return self.family.optimize(self, topk=topk).eval()

    def with_remask(self) -> SegmentationModel:
        """A model that relaxes masks at inference too (ReMask, arXiv 2306.17319, Table 5); this one stays.

        Raises:
            ConfigError: the model has no branches to do it with.
        """
        raise ConfigError(
            f"{self.name or 'the model'} has no ReMask branches; train a kMaX-DeepLab or ReMaX with "
            "loss.remax.keep_branches true"
        )

    push_to_hub = _function("push_to_hub")
    save_pretrained = _function("save_pretrained")

    def check_channels(self, images: Tensor) -> None:
        """Refuses images of another number of channels than the network was made for.

        Raises:
            ConfigError: naming both numbers.
        """
        if images.shape[1] != self.config.in_channels:
            raise ConfigError(
                f"the images have {images.shape[1]} channels, the model takes {self.config.in_channels}; "
                f"create it with `in_channels={images.shape[1]}`"
            )


@dataclass(frozen=True)
class ExportLimits:
    """What the models of a family can be exported to.

    Attributes:
        formats: which of `onnx`, `litert` and `torch-export`.
        panoptic: whether post-processing can be a part of the file.
        dynamic: whether one file can take images of any size.
        fewer_proposals: whether a file may give fewer proposals than the model.
        hard_sigmoid: whether masks may be computed with the hard sigmoid.
        opset: the smallest ONNX opset that has all its operators.
    """

    formats: tuple[str, ...] = ("onnx", "litert", "torch-export")
    panoptic: bool = True
    dynamic: bool = True
    fewer_proposals: bool = True
    hard_sigmoid: bool = True
    opset: int = 18


class Criterion(Protocol):
    """Makes the loss of a model: a module called with (model, its output in training, batch, generator=…).

    The generator lies on the batch's device; whatever the loss draws, it draws from it. The module gives the
    weighted terms as scalars by name; training minimises their sum. It may have weights of its own, which
    learn with the model's and are no part of it.

    It may have scalars to log besides its terms: `measures`, by name, which a call fills while `watching` is
    true; and `heatmaps(model, batch)`, the targets of centres, B×C×h×w of each level, to be drawn.
    """

    def __call__(self, model: Any, loss: Any, *, min_iou: float = 0.7, gaussian: Any = "iou") -> nn.Module:
        """The criterion of a run.

        Args:
            model: what it will judge.
            loss: the family's loss config.
            min_iou: of the Gaussians around centres, for families that learn centres.
            gaussian: how wide these are, `iou` or `size`; see `TargetConfig`.
        """


@dataclass(frozen=True)
class Family:
    """Everything a family of models brings; its folder registers one with `registry.register_family`.

    Attributes:
        name: what people call it, also in messages.
        kinds: by the kind that model files name, the config dataclass and the network made from it.
        loss: the dataclass of its loss options, `loss:` in recipes.
        criterion: see `Criterion`.
        class_shaped: pattern of the parameters whose first dimension counts classes.
        optimize: a model for inference alone from a model and, by keyword, `topk`, see `optimized`.
        importer: reads a published checkpoint: its path and the label set (or None) to a model and a report;
            None where the family has no such files.
        upgrade: brings what earlier versions wrote to today's names: a dict with the `model` part of a recipe
            (in a model file the config) and maybe its `loss` and `training`, to a new one.
        check: refuses, of a run, a model's config and its loss that do not go together.
        limits: of export.
    """

    name: str
    kinds: Mapping[str, tuple[type[Any], type[SegmentationModel]]]
    loss: type[Any]
    criterion: Criterion
    class_shaped: re.Pattern[str]
    optimize: Callable[..., SegmentationModel]
    importer: Callable[[Any, Categories | None], tuple[SegmentationModel, Any]] | None = None
    upgrade: Callable[[dict[str, Any]], dict[str, Any]] = dict
    check: Callable[[Any, Any], None] = lambda config, loss: None
    limits: ExportLimits = field(default_factory=ExportLimits)

    def is_class_shaped(self, parameter: str) -> bool:
        """Whether the first dimension of a parameter of that name counts classes."""
        return self.class_shaped.fullmatch(parameter) is not None


def moved_to_training(recipe: dict[str, Any], options: type[Any]) -> dict[str, Any]:
    """A recipe in which options of training, once fields of the model, are in `training`.

    Args:
        recipe: as JSON or YAML hold it; left as it is.
        options: the dataclass of the options.
    """
    model = recipe.get("model")
    names = {f.name for f in dataclasses.fields(options)}
    if not isinstance(model, dict) or not names & model.keys():
        return recipe
    old = {name: value for name, value in model.items() if name in names}
    kept = {name: value for name, value in model.items() if name not in names}
    return {**recipe, "model": kept, "training": {**old, **(recipe.get("training") or {})}}
