"""Everything that makes one kMaX-DeepLab differ from another."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from ...core.config import InputConfig, PostprocessConfig
from ...errors import ConfigError
from ..base import moved_to_training
from ..layers import Padding
from ..remax import SEMANTIC_WEIGHT

BACKBONES = (
    "resnet50",
    "max_s",
    "convnext_tiny",
    "convnext_small",
    "convnext_base",
    "mobilenetv3_small_100",
    "mobilenetv3_large_100",
)


def _input() -> InputConfig:
    return InputConfig(size=(641, 641), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def _postprocess() -> PostprocessConfig:
    return PostprocessConfig(
        rule="kmax",
        score_threshold=0.7,
        stuff_threshold=0.5,
        overlap_threshold=0.8,
        mask_threshold=0.4,
        min_area=0.0,
    )


@dataclass
class ReMaXConfig:
    """How masks and classes are relaxed (ReMaX, arXiv 2306.17319).

    The defaults are plain kMaX-DeepLab's; the `remax_*` models have the paper's: sigmoid, 4 layers, η = 0.1.
    Why each default is what it is: docs/decisions/remax.md.

    Attributes:
        mask_id_loss: σ of the masks in matching, losses and equations 1 to 3: `softmax` over the queries, or
            `sigmoid` of each. `postprocess.mask_activation` is the same choice at inference.
        remask_layers: number of k-means layers, from the first, whose masks are relaxed (equations 1 and 2);
            all of them if there are fewer, none with 0.
        eta: η of ReClass (equation 4), 0…1; 0 keeps hard class targets.
        identity_mapping: m̂ = m + gate · m; false drops the first term.
        stop_gradient: the semantic branch learns from its own loss only.
        semantic_source: what the gate is made from: the `predicted` classes of the branch, or the
            `ground_truth` (then there is no branch).
        aspp: convolutions of the branches' ASPP: `full` or `separable`.
        x_sem: input of the branches: the layer's `key` P (256 channels), or its `pixel_feature` F (128).
        detach_class: no gradient through the class probabilities of equation 1.
        semantic_loss: loss of the branches: `bce` summed over the classes, `softmax_ce`, or `as_masks`, the
            one of these that corresponds to `mask_id_loss`.
        semantic_weight: weight of that loss, for each layer.
        keep_branches: keep the branches in the model files of the run, for `evaluate --remask`; otherwise
            only its checkpoints have them.
    """

    mask_id_loss: Literal["softmax", "sigmoid"] = "softmax"
    remask_layers: int = 0
    eta: float = 0.0
    identity_mapping: bool = True
    stop_gradient: bool = True
    semantic_source: Literal["predicted", "ground_truth"] = "predicted"
    aspp: Literal["full", "separable"] = "full"
    x_sem: Literal["key", "pixel_feature"] = "key"
    detach_class: bool = False
    semantic_loss: Literal["as_masks", "bce", "softmax_ce"] = "as_masks"
    semantic_weight: float = SEMANTIC_WEIGHT
    keep_branches: bool = False

    def __post_init__(self) -> None:
        if self.keep_branches and (self.semantic_source == "ground_truth" or not self.remask_layers):
            raise ConfigError(
                "remax.keep_branches: there are no branches to keep without remax.remask_layers, or with "
                "remax.semantic_source ground_truth"
            )
        if not 0 <= self.eta <= 1:
            raise ConfigError(f"remax.eta is {self.eta:g}; it must be from 0 to 1 (the paper's is 0.1)")
        if self.remask_layers < 0:
            raise ConfigError(f"remax.remask_layers is {self.remask_layers}; it must be 0 (none) or more")
        if not self.semantic_weight >= 0:
            raise ConfigError(f"remax.semantic_weight is {self.semantic_weight:g}; it must be 0 or more")


@dataclass
class KMaXTraining:
    """What of the network only training knows.

    Attributes:
        drop_path: stochastic depth of the k-means layers, 0…1; published models are trained with 0.2.
        backbone_drop_path: stochastic depth of the backbone's last blocks (ConvNeXt and MaX-S).
        mask_start: scale and offset of all mask logits before anything is learned; published (0.1, 0). Short
            runs with sigmoid masks start better from (1, -3).
    """

    drop_path: float = 0.0
    backbone_drop_path: float = 0.0
    mask_start: tuple[float, float] = (0.1, 0.0)


@dataclass
class KMaXConfig:
    """Architecture of a kMaX-DeepLab (arXiv 2207.04044); defaults are R50's.

    Attributes:
        backbone: one of `BACKBONES`.
        in_channels: channels of the image.
        padding: `symmetric` as the PyTorch code, `same` as TensorFlow; equal where a map's side is odd.
        bn_momentum: momentum of all batch norms, as PyTorch defines it.
        resnet_layout: `max_pool` as the PyTorch code; `stride` as DeepLab2, where the first stage strides
            instead of a max-pool and features are tapped before the activation. Weights fit both, but
            belong to one.
        gate: of MobileNetV3's squeeze-and-excitation; `sigmoid` as in DeepLab2.
        pixel_blocks: residual blocks of the pixel decoder's stages at strides 32, 16, 8 and 4.
        decoder_layers: k-means layers at strides 32, 16 and 8.
        fifth_stage: one more stage on the stem, as for Cityscapes: `tensorflow` at the stem's own stride (2
            with MaX-S, MobileNetV3 and ResNet, which needs `resnet_layout: stride`; 4 with ConvNeXt),
            `pytorch` as the published R50 checkpoint has it (the max-pooled stem of stride 4, before res2),
            or `none`.
        semantic: the auxiliary semantic head, which is used in training only: `aspp` at stride 4, `simple` at
            stride 32 (Cityscapes), or `none`.
        remask_at_test: assign pixels to queries by relaxed masks, also at inference. The branches are then
            part of the network, and training uses these options in place of `loss.remax`. None, as published:
            masks are relaxed in training only.
        remask_kept: options of branches that the model file holds and inference does not use, except with
            `evaluate --remask`. Training sets it, see `loss.remax.keep_branches`.
        proposals: number of queries; each gives one proposal.
        input: how an image becomes a network input.
        postprocess: how proposals become segments; by default with the thresholds of bytedance/kmax-deeplab
            for COCO.
    """

    backbone: str = "resnet50"
    in_channels: int = 3
    padding: Padding = "symmetric"
    bn_momentum: float = 0.01
    resnet_layout: Literal["max_pool", "stride"] = "max_pool"
    gate: Literal["hard_sigmoid", "sigmoid"] = "hard_sigmoid"
    pixel_blocks: tuple[int, int, int, int] = (1, 5, 1, 1)
    decoder_layers: tuple[int, int, int] = (2, 2, 2)
    fifth_stage: Literal["none", "tensorflow", "pytorch"] = "none"
    semantic: Literal["none", "aspp", "simple"] = "aspp"
    remask_at_test: ReMaXConfig | None = None
    remask_kept: ReMaXConfig | None = None
    proposals: int = 128
    input: InputConfig = field(default_factory=_input)
    postprocess: PostprocessConfig = field(default_factory=_postprocess)

    def __post_init__(self) -> None:
        self.input = self.input.for_channels(self.in_channels)
        if self.remask_at_test is not None and self.remask_at_test.semantic_source == "ground_truth":
            raise ConfigError(
                "`remask_at_test` needs `semantic_source=predicted`: at inference there is no ground truth"
            )
        if (self.backbone, self.resnet_layout, self.fifth_stage) == ("resnet50", "max_pool", "tensorflow"):
            raise ConfigError(
                "fifth_stage tensorflow is of stride 2, but ResNet-50's stem with a max-pool of 4: give "
                "`resnet_layout=stride`, or `fifth_stage=pytorch`"
            )


def upgraded(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe by today's names: what only training knows was once a part of the model.

    Args:
        recipe: `model` and, of recipes, `loss` and `training`, as JSON or YAML hold them; left as it is.
    """
    recipe = moved_to_training(recipe, KMaXTraining)
    model = recipe.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("remax"), dict):
        return recipe
    kept, remax = {k: v for k, v in model.items() if k != "remax"}, dict(model["remax"])
    if remax.pop("remask_at_test", False):
        kept["remask_at_test"] = remax
        return {**recipe, "model": kept}
    return {**recipe, "model": kept, "loss": {"remax": remax, **(recipe.get("loss") or {})}}
