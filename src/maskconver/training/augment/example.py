"""One sample to one training example: copy-paste, geometry, colour, normalisation, targets, in this order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ...core.config import InputConfig
from ...core.preprocess import normalize, stretch, white_of
from ...core.segments import SegmentTable
from ...data.dataset import Sample
from ...errors import ConfigError
from ..targets import ImageTargets, TargetConfig, assign_targets
from .autoaugment import OPERATIONS, POLICIES, Step, auto_augment
from .color import ColorConfig, jitter_color
from .copy_paste import CopyPasteConfig, copy_paste
from .geometry import CropGeometry, crop_image, crop_map, resize_crop_geometry


@dataclass
class AugmentConfig:
    """Augmentation of training images.

    Attributes:
        crop: (height, width) of a training example in pixels; the network input if None.
        crop_on_class: share of the crops that lie on a class drawn from those of the image with equal
            chances, so that rare and small classes are seen more often. The others lie anywhere.
        flip: probability of a horizontal flip.
        flip_vertical: probability of a vertical flip.
        rotate90: rotate by a random multiple of 90°.
        scale: range of the scale jitter; (1, 1) switches it off.
        scale_law: `uniform` as the reference, or `log`: halving is as likely as doubling.
        color: colour jitter, see `ColorConfig`.
        autoaugment: `panoptic`, the policy of the published recipes, or a policy of your own: a list of
            sub-policies, each a list of [operation, probability, level 0…10].
        copy_paste: see `CopyPasteConfig`; off by default.
    """

    crop: tuple[int, int] | None = None
    crop_on_class: float = 0.0
    flip: float = 0.5
    flip_vertical: float = 0.0
    rotate90: bool = False
    scale: tuple[float, float] = (1.0, 1.0)
    scale_law: Literal["uniform", "log"] = "uniform"
    color: ColorConfig = field(default_factory=ColorConfig)
    autoaugment: Literal["none", "panoptic"] | list[list[tuple[str, float, float]]] = "none"
    copy_paste: CopyPasteConfig = field(default_factory=CopyPasteConfig)

    def __post_init__(self) -> None:
        for name, *_ in (step for steps in self.policy for step in steps):
            if name not in OPERATIONS:
                raise ConfigError(f'autoaugment has no operation "{name}"; there is {", ".join(OPERATIONS)}')
        paste, color = self.copy_paste, self.color
        shares = {
            "flip": self.flip,
            "flip_vertical": self.flip_vertical,
            "crop_on_class": self.crop_on_class,
            "color.invert": color.invert,
            "copy_paste.probability": paste.probability,
            "copy_paste.frequency": paste.frequency,
            "copy_paste.stuff_drop": paste.stuff_drop,
        }
        for name, value in shares.items():
            if not 0 <= value <= 1:
                raise ConfigError(f"`data.augment.{name}` must be from 0 to 1, got {value:g}")
        if not 0 <= color.hue <= 0.5:
            raise ConfigError(f"`data.augment.color.hue` must be from 0 to 0.5, got {color.hue:g}")
        for name in ("brightness", "contrast", "saturation", "gamma", "noise"):
            if not 0 <= getattr(color, name) < math.inf:
                raise ConfigError(
                    f"`data.augment.color.{name}` must be at least 0, got {getattr(color, name):g}"
                )
        scales = {
            "scale": self.scale,
            "copy_paste.scale": paste.scale,
            "copy_paste.pasted_scale": paste.pasted_scale,
        }
        for name, (low, high) in scales.items():
            if not 0 < low <= high < math.inf:
                raise ConfigError(
                    f"`data.augment.{name}` must be two numbers above 0, the smaller one first, got "
                    f"[{low:g}, {high:g}]"
                )
        if self.crop is not None and min(self.crop) < 1:
            raise ConfigError(
                f"`data.augment.crop` must be at least 1 pixel high and wide, got {[*self.crop]}"
            )

    @property
    def policy(self) -> Sequence[Sequence[Step]]:
        """The sub-policies of `autoaugment`."""
        return POLICIES[self.autoaugment] if isinstance(self.autoaugment, str) else self.autoaugment

    @classmethod
    def none(cls) -> AugmentConfig:
        """Nothing varies: the image as inference sees it."""
        return cls(flip=0.0)


@dataclass(slots=True)
class Example:
    """One training example: image C×H×W float32, normalised; its targets; and where it came from."""

    image: NDArray[np.float32]
    targets: ImageTargets
    image_id: int | str


def train_example(
    sample: Sample,
    input_config: InputConfig,
    augment: AugmentConfig,
    *,
    targets: TargetConfig,
    is_thing: NDArray[np.bool_],
    rng: np.random.Generator,
    partner: Sample | None = None,
) -> Example:
    """Varies a sample and computes its targets on the training canvas.

    The order is the reference's: copy-paste, flips, AutoAugment on the whole uint8 image, resize and crop,
    then what the reference does not have (colour jitter), normalisation. AutoAugment takes 8 bits alone.

    Args:
        sample: from a reader.
        input_config: the model's input; its stretch and normalisation are the ones of inference.
        augment, targets: the recipe's choices.
        is_thing: (C,) bool by label.
        rng: where all draws come from.
        partner: what is pasted on it by `augment.copy_paste`, or None.
    """
    if partner is not None:
        # What comes of it is scaled as any image is, before a crop is taken.
        canvas_size, native = input_config.size, input_config.mode == "native"
        if native:
            height, width = (math.ceil(n / input_config.scale) for n in augment.crop or input_config.size)
            canvas_size = height, width
        paste, fill = augment.copy_paste, 0.0
        if paste.padding == "ignore":
            fill = np.array(input_config.mean, np.float32) * white_of(sample.image)  # type: ignore[assignment]
        if paste.autoaugment_each:
            sample, partner = (
                replace(one, image=auto_augment(one.image, augment.policy, rng)) for one in (sample, partner)
            )
        sample = copy_paste(
            sample,
            partner,
            canvas_size,
            is_thing=is_thing,
            config=paste,
            flip=augment.flip,
            rng=rng,
            fill=fill,
            native=native,
        )
    values: NDArray = sample.image
    ids = sample.ids
    if augment.flip and rng.random() < augment.flip:
        values, ids = values[:, ::-1], ids[:, ::-1]
    if augment.flip_vertical and rng.random() < augment.flip_vertical:
        values, ids = values[::-1], ids[::-1]
    if augment.rotate90 and (turns := int(rng.integers(4))):
        values, ids = np.rot90(values, turns), np.rot90(ids, turns)
    if partner is None or not augment.copy_paste.autoaugment_each:
        values = auto_augment(values, augment.policy, rng)
    if input_config.stretch == "percentile":
        values = stretch(values, input_config.percentiles)
    focus = None
    if augment.crop_on_class and rng.random() < augment.crop_on_class:
        focus = _pixel_of_a_class(ids, sample.segments, rng)
    geometry = _draw_geometry(ids.shape, input_config, augment, rng, focus)
    crop = crop_image(values, geometry)
    if input_config.stretch == "none":
        crop /= white_of(sample.image)
    if augment.color != ColorConfig():
        crop = jitter_color(crop, augment.color, rng)
    (height, width), (h, w) = geometry.crop, geometry.covered
    canvas = np.zeros((crop.shape[2], height, width), np.float32)
    canvas[:, :h, :w] = normalize(crop, input_config, unit=True).transpose(2, 0, 1)
    id_canvas = np.full((height, width), -1, np.int32)  # -1 is padding
    id_canvas[:h, :w] = crop_map(ids, geometry)
    canvas[:, id_canvas < 0] = 0  # also what copy-paste has padded: the mean colour, exactly
    assigned = assign_targets(
        np.maximum(id_canvas, 0), sample.segments, is_thing, config=targets, inside=id_canvas >= 0
    )
    return Example(canvas, assigned, sample.image_id)


def _pixel_of_a_class(
    ids: NDArray[np.int32], segments: SegmentTable, rng: np.random.Generator
) -> tuple[float, float] | None:
    """Where (y, x; shares of the sides) a random pixel of a random class lies; classes have equal chances."""
    own = segments.labels[~segments.crowd]
    if not len(own):
        return None
    label = rng.choice(np.unique(own))
    chosen = segments.ids[(segments.labels == label) & ~segments.crowd]
    pixels = np.flatnonzero(ids == rng.choice(chosen))
    if not len(pixels):
        return None
    y, x = divmod(int(rng.choice(pixels)), ids.shape[1])
    return (y + 0.5) / ids.shape[0], (x + 0.5) / ids.shape[1]


def _draw_geometry(
    size: tuple[int, ...],
    input_config: InputConfig,
    augment: AugmentConfig,
    rng: np.random.Generator,
    focus: tuple[float, float] | None = None,
) -> CropGeometry:
    low, high = augment.scale
    jitter = None
    if (low, high) != (1.0, 1.0):
        jitter = float(rng.uniform(low, high))
        if augment.scale_law == "log":
            jitter = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    place = (float(rng.random()), float(rng.random()))
    height, width = size[:2]
    if input_config.mode == "native":
        canvas = (round(height * input_config.scale), round(width * input_config.scale))
    else:
        canvas = input_config.size
    return resize_crop_geometry(
        (height, width), canvas, augment.crop or input_config.size, jitter=jitter, place=place, focus=focus
    )
