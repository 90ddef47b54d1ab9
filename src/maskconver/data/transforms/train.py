"""One sample to one training example: geometry, colour, normalisation, targets."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ...config import InputConfig
from ...preprocess import normalize, stretch
from ...targets import ImageTargets, TargetConfig, assign_targets
from ..sample import Sample
from .color import ColorConfig, jitter_color
from .geometry import CropGeometry, crop_image, crop_map, resize_crop_geometry


@dataclass
class AugmentConfig:
    """How training varies a picture.

    Attributes:
        crop: (height, width) of a training example; the model's input size where None.
        flip: probability of a horizontal flip.
        flip_vertical: probability of a vertical flip.
        rotate90: turn by a random multiple of 90°.
        scale: range of the scale jitter; (1, 1) is none.
        scale_law: `uniform` as the reference, or `log`: halving as likely as doubling.
        color: see `ColorConfig`.
    """

    crop: tuple[int, int] | None = None
    flip: float = 0.5
    flip_vertical: float = 0.0
    rotate90: bool = False
    scale: tuple[float, float] = (1.0, 1.0)
    scale_law: Literal["uniform", "log"] = "uniform"
    color: ColorConfig = field(default_factory=ColorConfig)

    @classmethod
    def none(cls) -> AugmentConfig:
        """Nothing varies: the picture as inference sees it."""
        return cls(flip=0.0)


@dataclass(slots=True)
class Example:
    """One training example: image 3×H×W float32, normalised; its targets; and where it came from."""

    image: NDArray[np.float32]
    targets: ImageTargets
    image_id: int | str


def train_example(
    sample: Sample,
    input_config: InputConfig,
    augment: AugmentConfig,
    targets: TargetConfig,
    is_thing: NDArray[np.bool_],
    rng: np.random.Generator,
) -> Example:
    """Varies a sample and computes its targets on the training canvas.

    Args:
        sample: from a reader.
        input_config: the model's input; its stretch and normalisation are the ones of inference.
        augment, targets: the recipe's choices.
        is_thing: (C,) bool by label.
        rng: where all draws come from.
    """
    image, ids = sample.image, sample.ids
    values = stretch(image, input_config.percentiles) if input_config.stretch == "percentile" else image
    if augment.flip and rng.random() < augment.flip:
        values, ids = values[:, ::-1], ids[:, ::-1]
    if augment.flip_vertical and rng.random() < augment.flip_vertical:
        values, ids = values[::-1], ids[::-1]
    if augment.rotate90 and (turns := int(rng.integers(4))):
        values, ids = np.rot90(values, turns), np.rot90(ids, turns)
    geometry = _draw_geometry(ids.shape, input_config, augment, rng)
    crop = crop_image(values, geometry)
    if values.dtype == np.uint8:
        crop /= 255
    if augment.color != ColorConfig():
        crop = jitter_color(crop, augment.color, rng)
    (height, width), (h, w) = geometry.crop, geometry.covered
    canvas = np.zeros((3, height, width), np.float32)
    canvas[:, :h, :w] = normalize(crop, input_config, unit=True).transpose(2, 0, 1)
    inside = np.zeros((height, width), bool)
    inside[:h, :w] = True
    id_canvas = np.zeros((height, width), np.int32)
    id_canvas[:h, :w] = crop_map(ids, geometry)
    assigned = assign_targets(id_canvas, sample.segments, is_thing, targets, inside)
    return Example(canvas, assigned, sample.image_id)


def _draw_geometry(
    size: tuple[int, ...], input_config: InputConfig, augment: AugmentConfig, rng: np.random.Generator
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
    return resize_crop_geometry((height, width), canvas, augment.crop or input_config.size, jitter, place)
