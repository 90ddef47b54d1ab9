"""The weighted sum kMaX-DeepLab and ReMaX are trained with (arXiv 2207.04044 and 2306.17319)."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import ConfigError
from ..batch import Batch, MaskTargets
from ..layers import full_precision
from ..remax import branch_loss, class_overlap, probability, soften
from .config import KMaXConfig, ReMaXConfig
from .gate import MaskGate, Prediction
from .loss_terms import (
    Assignment,
    assign,
    class_loss,
    dice_loss,
    false_losses,
    instance_discrimination,
    mask_id_loss,
    one_hot_map,
    sample_pixels,
    sampled_semantic_loss,
)
from .matching import match, similarities
from .model import KMaXDeepLab, KMaXOutput
from .pixel_decoder import resize_aligned
from .targets import Targets, kmax_targets


@dataclass
class KMaXLossConfig:
    """Weights and samples; the defaults are the published ones, of all three data sets.

    Attributes:
        class_weight: λ of the class term, of every output.
        dice_weight: λ of the dice term.
        mask_id_weight: λ of the cross-entropy of each pixel's mask.
        instance_weight: λ of the instance discrimination.
        semantic_weight: λ of the auxiliary semantic head's term.
        instance_samples: pixels whose features are compared, for each image and output.
        instance_sampling: temperature with which pixels of small masks are drawn more often.
        instance_temperature: τ of the compared features.
        semantic_samples: pixels of each image that the semantic head is judged on.
        semantic_sampling: temperature with which pixels of small classes are drawn more often.
        semantic_hardest: only this share of the sampled pixels, those of the largest loss (DeepLab2's
            Cityscapes has 0.2).
        remax: how masks and classes are relaxed.
        share_final_matching: the final output's assignment holds for the layers' outputs too; false matches
            each on its own.
    """

    class_weight: float = 3.0
    dice_weight: float = 3.0
    mask_id_weight: float = 0.3
    instance_weight: float = 1.0
    semantic_weight: float = 1.0
    instance_samples: int = 4096
    instance_sampling: float = 1.5
    instance_temperature: float = 0.3
    semantic_samples: int = 4096
    semantic_sampling: float = 2.0
    semantic_hardest: float = 1.0
    remax: ReMaXConfig = field(default_factory=ReMaXConfig)
    share_final_matching: bool = True

    def __post_init__(self) -> None:
        for name in ("instance_samples", "semantic_samples"):
            if getattr(self, name) < 1:
                raise ConfigError(f"loss.{name} is {getattr(self, name)}; it must be 1 or more")
        if not 0 < self.semantic_hardest <= 1:
            raise ConfigError(
                f"loss.semantic_hardest is {self.semantic_hardest:g}; it must be above 0 and at most 1 (all)"
            )


def check(config: KMaXConfig, loss: KMaXLossConfig) -> None:
    """Refuses a run whose masks would be trained as probabilities of another kind than they are read as.

    Raises:
        ConfigError: naming both fields.
    """
    trained = (config.remask_at_test or loss.remax).mask_id_loss
    read = config.postprocess.mask_activation
    if trained != read:
        raise ConfigError(
            f"masks would be trained as {trained} (loss.remax.mask_id_loss) and read as {read} "
            f"(model.postprocess.mask_activation): set both to {trained} or both to {read}; a trained model "
            "can be read the other way when it is evaluated"
        )


class Output(NamedTuple):
    """One of the outputs that are supervised, its masks at the final size.

    Attributes:
        class_logits: B×N×(K+1) float32.
        masks: B×N×h×w logits.
        relaxed: B×N×h×w logits of ReMask; `masks` themselves elsewhere.
        feature: B×D×h'×w', at its own size.
    """

    class_logits: Tensor
    masks: Tensor
    relaxed: Tensor
    feature: Tensor


class KMaXCriterion(nn.Module):
    """The loss terms of a step; has the ReMask branches, which are no part of the network.

    Args:
        model: what it will judge.
        loss: weights, and how masks and classes are relaxed; what `model.config.remask_at_test` says goes
            first.
        min_iou, gaussian: of no use here: nothing is drawn around centres.

    Attributes:
        watching: whether the next step fills `measures`.
        measures: `fp_fn`, the loss of false positives over that of false negatives in the masks of the
            k-means layers as the loss sees them (ReMaX, Figure 1), the geometric mean over layers and images;
            where masks are relaxed also `fp_fn_unrelaxed`, of the same masks before. Scalars.
        matching_seconds: time spent assigning queries to masks so far. On a CPU all of it; elsewhere what
            the host does once it has the costs.
    """

    def __init__(
        self, model: KMaXDeepLab, loss: KMaXLossConfig, *, min_iou: float = 0.7, gaussian: str = "iou"
    ) -> None:
        super().__init__()
        at_test = model.config.remask_at_test
        self.config, self.remax = loss, at_test or loss.remax
        self.num_classes = model.num_classes
        self.relaxed = min(self.remax.remask_layers, len(model.decoder.layers))
        own = 0 if at_test else self.relaxed  # otherwise the network has them
        gates = nn.ModuleList(
            MaskGate(self.remax, model.num_classes, model.config.bn_momentum) for _ in range(own)
        )
        kept = gates if self.remax.keep_branches and own else nn.ModuleList()
        model.keep(kept, self.remax)
        self.gates = nn.ModuleList() if kept else gates  # of one owner: the model where it keeps them
        self.matching_seconds = 0.0
        self.watching = False
        self.measures: dict[str, Tensor] = {}

    def forward(
        self,
        model: KMaXDeepLab,
        output: KMaXOutput,
        batch: Batch,
        *,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """The terms of a batch, each weighted already; their sum is what training minimises.

        Args:
            model: whose output it is.
            output: `model(batch.images)`, in training.
            batch: images and their masks.
            generator: draws the pixels that are compared; on their device. PyTorch's own where None.

        Returns:
            `class`, `dice`, `mask_id`, `instance` summed over all outputs; `semantic` of the auxiliary head
            and `remask` of the branches, where there are any. Scalars, float32.
        """
        size = _size(output.final.mask_logits)
        grids = [_size(p.mask_logits) for p in output.layers[: self.relaxed]]
        if output.semantic_logits is not None:
            grids.append(_size(output.semantic_logits))
        targets = kmax_targets(batch, size, grids)
        relaxed, branch_terms = self._relax(model, output.layers, targets)
        config = self.config
        with full_precision(output.final.mask_logits.device.type):
            outputs = [_at_size(p, r, size) for p, r in zip((output.final, *output.layers), (None, *relaxed))]
            assignments = self._assign(outputs, targets.masks)
            if self.watching:
                self._measure(outputs[1:], assignments[1:])
            terms: dict[str, Tensor] = {}
            for found, assignment in zip(outputs, assignments):
                for name, value in self.terms(found, assignment, targets.masks, generator=generator).items():
                    terms[name] = terms.get(name, 0) + getattr(config, f"{name}_weight") * value
            if output.semantic_logits is not None:
                terms["semantic"] = config.semantic_weight * sampled_semantic_loss(
                    output.semantic_logits.float(),
                    targets.classes[_size(output.semantic_logits)],
                    config.semantic_samples,
                    temperature=config.semantic_sampling,
                    hardest=config.semantic_hardest,
                    generator=generator,
                )
        if branch_terms:
            terms["remask"] = self.remax.semantic_weight * torch.stack(branch_terms).sum()
        return terms

    @torch.no_grad()
    def _measure(self, layers: list[Output], assignments: list[Assignment]) -> None:
        """Fills `measures`; images without a labelled pixel do not count."""
        kinds = {"fp_fn": [o.relaxed for o in layers]}
        if self.relaxed:
            kinds["fp_fn_unrelaxed"] = [o.masks for o in layers]
        self.measures = {}
        for name, masks in kinds.items():
            pairs = [false_losses(m, a.owner, self.remax.mask_id_loss) for m, a in zip(masks, assignments)]
            positives, negatives = (torch.cat(v) for v in zip(*pairs))
            labelled = negatives > 0
            if labelled.any():
                self.measures[name] = (positives[labelled] / negatives[labelled]).log().mean().exp()

    def _relax(
        self, model: KMaXDeepLab, layers: tuple[Prediction, ...], targets: Targets
    ) -> tuple[list[Tensor | None], list[Tensor]]:
        """The relaxed mask logits of each layer (None: not relaxed), and the branches' losses."""
        relaxed: list[Tensor | None] = [None] * len(layers)
        losses = []
        for i, prediction in enumerate(layers[: self.relaxed]):
            gate = (self.gates or model.kept_gates or [layer.gate for layer in model.decoder.layers])[i]
            assert isinstance(gate, MaskGate) and prediction.key is not None
            truth = targets.classes[_size(prediction.mask_logits)]
            if gate.branch is None:
                relaxed[i] = gate(prediction, one_hot_map(truth, self.num_classes), truth=True)
                continue
            logits = prediction.semantic_logits
            if logits is None:
                logits = gate.semantic_logits(prediction, prediction.key)
            relaxed[i] = gate(prediction, logits)
            kind = self.remax.semantic_loss
            if kind == "as_masks":
                kind = "bce" if self.remax.mask_id_loss == "sigmoid" else "softmax_ce"
            with full_precision(logits.device.type):
                losses.append(branch_loss(logits.float(), truth, kind))
        return relaxed, losses

    @torch.no_grad()
    def _assign(self, outputs: list[Output], targets: MaskTargets) -> list[Assignment]:
        """Who answers for which mask, for every output: one transfer to the host and back."""
        start = time.perf_counter()
        matched = outputs[:1] if self.config.share_final_matching else outputs
        masks = [probability(o.masks, self.remax.mask_id_loss, 1) for o in matched]
        labelled = (targets.owner >= 0)[:, None]
        pairs = [similarities(o.class_logits, m * labelled, targets) for o, m in zip(matched, masks)]
        dice, classes = (torch.stack(v) for v in zip(*pairs))
        if dice.is_cuda:
            torch.cuda.synchronize()
            start = time.perf_counter()
        found = match(dice, classes, targets.labels.expand(len(matched), -1, -1))
        self.matching_seconds += time.perf_counter() - start
        assignments = [
            assign(f, d, c, masks=m, targets=targets, num_classes=self.num_classes)
            for f, d, c, m in zip(found, dice, classes, masks)
        ]
        return assignments if len(matched) > 1 else assignments * len(outputs)

    def terms(
        self,
        output: Output,
        assignment: Assignment,
        targets: MaskTargets,
        *,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """The four terms of one output, not weighted yet."""
        activation, config, n = self.remax.mask_id_loss, self.config, output.masks.shape[1]
        soft = F.one_hot(assignment.target, self.num_classes + 1).float()
        if self.remax.eta:
            overlap = class_overlap(
                probability(output.masks.detach(), activation, 1), targets, self.num_classes
            )
            soft = soften(soft, F.pad(overlap, (0, 1)), self.remax.eta)  # "no object" covers nothing
        owner = assignment.owner.flatten(1)
        chosen = sample_pixels(
            owner,
            n,
            config.instance_samples,
            temperature=config.instance_sampling,
            generator=generator,
        )
        feature = features_at(output.feature, chosen, _size(output.masks))
        return {
            "class": class_loss(output.class_logits, soft, assignment.class_weight),
            "dice": dice_loss(probability(output.relaxed, activation, 1), assignment),
            "mask_id": mask_id_loss(output.relaxed, assignment.owner, activation),
            "instance": instance_discrimination(
                feature,
                owner if chosen is None else owner.gather(1, chosen),
                n,
                temperature=config.instance_temperature,
            ),
        }


def _size(maps: Tensor) -> tuple[int, int]:
    return maps.shape[-2], maps.shape[-1]


def _at_size(prediction: Prediction, relaxed: Tensor | None, size: tuple[int, int]) -> Output:
    """A prediction with its masks enlarged, corners aligned where the final height is odd."""
    assert prediction.class_logits is not None
    align = size[0] % 2 == 1
    masks = resize_aligned(prediction.mask_logits.float(), size, align)
    return Output(
        prediction.class_logits.float(),
        masks,
        masks if relaxed is None else resize_aligned(relaxed.float(), size, align),
        prediction.pixel_feature.float(),
    )


def features_at(feature: Tensor, pixels: Tensor | None, size: tuple[int, int]) -> Tensor:
    """Features of pixels of a finer grid, as if the map were enlarged to it first.

    Args:
        feature: B×D×h×w.
        pixels: B×k int64 into the flattened grid of `size`; None for all.
        size: (height, width) of the grid.

    Returns:
        B×k×D.
    """
    height, width = size
    align = height % 2 == 1
    if pixels is None:
        return resize_aligned(feature, size, align).flatten(2).transpose(1, 2)
    if tuple(feature.shape[-2:]) == size:
        index = pixels[:, None].expand(-1, feature.shape[1], -1)
        return feature.flatten(2).gather(2, index).transpose(1, 2)
    y, x = pixels.div(width, rounding_mode="floor"), pixels % width
    places = [
        2 * v / max(n - 1, 1) - 1 if align else (2 * v + 1) / n - 1 for v, n in ((x, width), (y, height))
    ]
    grid = torch.stack(places, -1)[:, None].to(feature.dtype)
    sampled = F.grid_sample(feature, grid, "bilinear", "border", align_corners=align)
    return sampled[:, :, 0].transpose(1, 2)
