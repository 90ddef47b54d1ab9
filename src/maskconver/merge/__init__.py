"""From proposals to one label per pixel: the rules by name, and `postprocess`, which applies the model's."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..core.categories import Categories
from ..core.config import PostprocessConfig
from ..core.proposals import Proposals
from ..core.segmentation import Segmentation
from ..errors import ConfigError
from .kmax import merge_kmax
from .maskconver import merge_maskconver, with_maskness

__all__ = ["ALGORITHMS", "NON_FINITE", "RULES", "Rule", "Source", "check_options", "postprocess"]

Algorithm = Literal["fast", "reference"]
NonFinite = Literal["error", "drop"]
Source = Literal["panoptic", "scores"]  # of semantic maps and instances
ALGORITHMS: tuple[Algorithm, ...] = ("fast", "reference")
NON_FINITE: tuple[NonFinite, ...] = ("error", "drop")


@dataclass(frozen=True)
class Rule:
    """How proposals of one image become one label per pixel; `PostprocessConfig.rule` names one of `RULES`.

    Attributes:
        name: its key in `RULES`.
        merge: `(scores, labels, mask_logits, is_thing, geometry, config, output_size, algorithm=…,
            non_finite=…) -> (ids, first)`; see `merge_maskconver`.
        independent_masks: a mask means the same without the other proposals, so that those below every
            threshold may be left out, and a network may be asked for more of them.
        takes_tensors: merges masks on the device where they lie, by the algorithm `fast`.
        rescored: `(scores, mask_logits, config) -> scores`, with which the merge and the answer work; None
            for those of the proposals.
        unused: fields of `PostprocessConfig` that this rule does not read.
        dense_from: what semantic maps and mask AP are made from by default: the `panoptic` result, or the
            `scores` of all masks, as papers of this rule report them.
    """

    name: str
    merge: Callable[..., tuple[NDArray[np.int32], NDArray[np.int64]]]
    independent_masks: bool
    takes_tensors: bool
    unused: tuple[str, ...]
    dense_from: Source = "panoptic"
    rescored: Callable[..., NDArray[np.float32]] | None = None

    def check(self, config: PostprocessConfig, given: Collection[str] = ()) -> None:
        """Refuses values out of range.

        Args:
            config: the thresholds.
            given: the fields that somebody has just set; those that this rule would ignore are refused, too.

        Raises:
            ConfigError: naming the field.
        """
        config.check()
        for field in fields(config):
            ignored = field.name in self.unused and field.name in given
            if ignored and getattr(config, field.name) != field.default:
                raise ConfigError(
                    f'{field.name} has no effect on models of the rule "{self.name}"; leave it out'
                )

    def stuff_field(self, config: PostprocessConfig) -> str:
        """The field with the score threshold of stuff: its own where it has one, or that of things."""
        own = "stuff_threshold" not in self.unused and config.stuff_threshold is not None
        return "stuff_threshold" if own else "score_threshold"


RULES = {
    rule.name: rule
    for rule in (
        Rule(
            "maskconver",
            merge_maskconver,
            independent_masks=True,
            takes_tensors=True,
            unused=(
                "stuff_threshold",
                "mask_exponent",
                "mask_activation",
                "stuff_min_area",
            ),
            rescored=with_maskness,
        ),
        Rule(
            "kmax",
            merge_kmax,
            independent_masks=False,  # a softmax over all of them
            takes_tensors=False,
            unused=("nms_iou", "reassign", "maskness", "hard_sigmoid"),
            dense_from="scores",
        ),
    )
}


def check_options(algorithm: str, non_finite: str, output_side: int | None) -> None:
    """Refuses invalid arguments of `postprocess`.

    Raises:
        ConfigError: naming the argument, the value and what there is.
    """
    for name, value, choices in (
        ("algorithm", algorithm, ALGORITHMS),
        ("non_finite", non_finite, NON_FINITE),
    ):
        if value not in choices:
            raise ConfigError(f'{name} "{value}" is not available; there are {", ".join(choices)}')
    if output_side is not None and output_side < 1:
        raise ConfigError(f"output_side must be a number of pixels, at least 1, not {output_side}")


def postprocess(
    proposals: Proposals,
    config: PostprocessConfig,
    categories: Categories,
    *,
    output_size: tuple[int, int] | None = None,
    output_side: int | None = None,
    algorithm: Algorithm = "fast",
    non_finite: NonFinite = "error",
) -> list[Segmentation]:
    """The segmentation of every image of a batch.

    Example:
        >>> import numpy as np
        >>> import maskconver as mc
        >>> masks = np.full((1, 1, 4, 4), -9, np.float32)
        >>> masks[..., :2] = 9
        >>> scored = mc.Proposals(np.array([[0.8]]), np.array([[0]]), masks)
        >>> cells = mc.Categories.from_json([{"id": 1, "name": "cell", "isthing": 1}])
        >>> (result,) = mc.postprocess(scored, PostprocessConfig(mask_threshold=0.5), cells)
        >>> result.segments[0].area
        8

    Args:
        proposals: B × N scored masks, NumPy or torch. With a geometry the result has the size of the original
            image, or `output_side`; without one that of the masks.
        config: rule and thresholds.
        categories: the label set that the proposals' labels point into.
        output_size: (height, width) of the result where it should be another one, e.g. the reference's padded
            evaluation size; pixels beyond the image then count as undecided.
        output_side: longer side of the result in pixels, with the aspect ratio of the image; None keeps the
            image's own size.
        algorithm: `fast` gives the result of `reference`, the plain definition, and computes few of the
            pixels. Masks on a GPU stay there with `fast` and come to the CPU with `reference`.
        non_finite: if scores or logits are NaN or infinite: `error`, or `drop` those proposals.

    Returns:
        B segmentations.

    Raises:
        MaskconverError: NaN or infinite values, a label without category, a setting out of its range.
    """
    check_options(algorithm, non_finite, output_side)
    if output_size is not None and min(output_size) < 1:
        raise ConfigError(
            f"output_size must be height and width in pixels, at least 1 each, not {output_size}"
        )
    if proposals.geometry and len(proposals.geometry) != len(proposals):
        raise ConfigError(f"{len(proposals)} images, but {len(proposals.geometry)} geometries")
    config.check()
    fill = config.fill_label
    if fill is not None and (fill >= len(categories) or categories.is_thing[fill]):
        raise ConfigError(f"fill_label {fill} is not a stuff class; there are {len(categories)} categories")
    rule = RULES[config.rule]
    stay = rule.takes_tensors and algorithm == "fast" and getattr(proposals.mask_logits, "is_cuda", False)
    arrays = (replace(proposals, mask_logits=None) if stay else proposals).numpy()
    all_masks: Any = proposals.mask_logits if stay else arrays.mask_logits
    results = []
    for i, (scores, labels, masks) in enumerate(zip(arrays.scores, arrays.labels, all_masks)):
        geometry = arrays.geometry[i].of_side(output_side) if arrays.geometry else None
        if config.fill_only:
            scores = np.where(labels == fill, np.float32(0), scores)
        if rule.rescored is not None:
            scores = rule.rescored(scores, masks, config)
        ids, first = rule.merge(
            scores,
            labels,
            masks,
            is_thing=categories.is_thing,
            geometry=geometry,
            config=config,
            output_size=output_size,
            algorithm=algorithm,
            non_finite=non_finite,
        )
        found, sure = labels[first], scores[first]
        if config.fill_label is not None:
            ids, found, sure = _filled(ids, found, sure, config.fill_label)
        results.append(Segmentation.from_ids(ids, categories, labels=found, scores=sure))
    return results


def _filled(
    ids: NDArray[np.int32], labels: NDArray[np.int64], scores: NDArray[np.float32], label: int
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.float32]]:
    """The void pixels given to the segment of a stuff label, opened with score 0 where there is none."""
    void = ids == 0
    if not void.any():
        return ids, labels, scores
    if label not in labels:
        labels, scores = np.append(labels, label), np.append(scores, np.float32(0))
    number = np.int32(np.flatnonzero(labels == label)[0] + 1)
    return np.where(void, number, ids), labels, scores
