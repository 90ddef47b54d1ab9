"""Configuration inside every model file: how an image becomes a network input, and masks a result."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ..errors import ConfigError

RGB_MEAN, RGB_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet


@dataclass
class InputConfig:
    """How an image is brought to the network (the same in training, evaluation and serving).

    Attributes:
        mode: `fit` scales the image so that it fits `size` and pads right and below;
            `native` keeps the image's own size times `scale` and pads to a multiple of `multiple`.
        size: network input (height, width) in pixels for `fit`, and the training crop.
        scale: factor applied to the image in `native` mode.
        multiple: sides of the network input are multiples of this many pixels in `native` mode.
        mean: subtracted from values scaled to 0…1, one number per channel: 3 are RGB, 1 is grey, 4 are the
            bands of RGBA and other images of 4 channels, any other number those of a TIFF.
        std: the values are then divided by it, one number per channel.
        stretch: `percentile` first maps each image's `percentiles` to 0…1 (one range over all channels),
            for images that use a small part of their range (fluorescence microscopy).
        percentiles: low and high percentile of the stretch, in percent.
        bits: 16 keeps what images of more than 8 bits hold; 8 rounds them.
        white_level: the value that becomes 1 in images of more than 8 bits, e.g. 4095 for 12 bits stored in
            16; the largest value that 16 bits can hold if None.
        diameter: median diameter of the training objects in pixels of their images (the diameter of a circle
            of the same area); None where it is not known. Training measures it for `native` mode.
    """

    mode: Literal["fit", "native"] = "fit"
    size: tuple[int, int] = (640, 640)
    scale: float = 1.0
    multiple: int = 32
    mean: tuple[float, ...] = RGB_MEAN
    std: tuple[float, ...] = RGB_STD
    stretch: Literal["none", "percentile"] = "none"
    percentiles: tuple[float, float] = (0.5, 99.8)
    bits: Literal[8, 16] = 8
    white_level: float | None = None
    diameter: float | None = None

    @property
    def channels(self) -> int:
        """How many channels an image is read with."""
        return len(self.mean)

    def for_channels(self, channels: int) -> InputConfig:
        """The same for images of so many channels.

        Mean and std of RGB become their average, for grey or for each channel beyond the third.

        Raises:
            ConfigError: mean or std have neither 3 values nor one per channel.
        """
        if len(self.mean) == len(self.std) == channels:
            return self
        if not len(self.mean) == len(self.std) == 3:
            raise ConfigError(
                f"the network takes {channels} channels, but input.mean has {len(self.mean)} values and "
                f"input.std {len(self.std)}; give {channels} of each"
            )
        mean, std = (
            (*values[: channels if channels > 2 else 0], *[round(sum(values) / 3, 4)] * channels)[:channels]
            for values in (self.mean, self.std)
        )
        return replace(self, mean=mean, std=std)


@dataclass
class PostprocessConfig:
    """Thresholds that turn proposals into one label per pixel.

    Attributes:
        rule: the post-processing rule that the model was made for, a name in `merge.RULES`.
        score_threshold: proposals with a score at or below this value are discarded.
        overlap_threshold: a proposal is kept if it wins more than this share of its own mask.
        min_area: a proposal must win more pixels than this fraction of (longer image side)². 256 / 640² is
            the published 256 px of a 640 px input.
        mask_threshold: a pixel goes only to masks whose probability exceeds this value there. With 0, as
            published, every pixel goes to a proposal, even where no mask is likely.
        nms_iou: before pixels are assigned, a proposal is discarded if its mask (above 0.5, at the masks' own
            stride) overlaps a better one of the same label by more than this IoU; 1, as published, discards
            none. Two peaks on one object otherwise share its pixels, and both may fail the overlap test.
        reassign: pixels of rejected proposals go to the best kept one instead of becoming void, where it
            passes `mask_threshold`; false as published.
        maskness: multiply each score by m to this power, where m is the mean probability of the mask's pixels
            above 0.5. Blurred masks then rank behind sharp ones. 0, as published, leaves scores as they are;
            1 is usual (rule `maskconver` only).
        fill_label: label (0…C-1, of stuff) of the pixels that no segment claims; None leaves them void. The
            public code of MaskConver's semantic models fills with class 0 (VOC's background).
        fill_only: proposals of `fill_label` do not compete for pixels: the class gets what no other segment
            claims, however certain the network is of it. For a background that may cover faint objects.
        hard_sigmoid: use `relu6(x + 3) / 6` for the masks, as the papers' on-device form (rule `maskconver`).
        class_exponent: a pixel goes to the largest mask probability · score^a; this is a. With 0, scores do
            not count there, so a model of stuff alone gives every pixel its most probable class. With the
            rule `kmax`, proposals are ordered by class score^a · mask score^b.
        mask_exponent: b of that product (rule `kmax` only).
        stuff_threshold: `score_threshold` of stuff, None for the same (rule `kmax` only, as the next two).
        mask_activation: how mask logits become probabilities, `softmax` over the proposals or `sigmoid`.
        stuff_min_area: `min_area` of stuff, None for the same (rule `kmax` only). DeepLab2's limits of things
            and stuff are 400 and 6400 pixels on COCO, 256 and 2048 on Cityscapes.
    """

    rule: Literal["maskconver", "kmax"] = "maskconver"
    score_threshold: float = 0.01
    overlap_threshold: float = 0.7
    min_area: float = field(default=256 / 640**2)
    mask_threshold: float = 0.0
    nms_iou: float = 1.0
    reassign: bool = False
    maskness: float = 0.0
    fill_label: int | None = None
    fill_only: bool = False
    hard_sigmoid: bool = False
    stuff_threshold: float | None = None
    class_exponent: float = 1.0
    mask_exponent: float = 1.0
    mask_activation: Literal["softmax", "sigmoid"] = "softmax"
    stuff_min_area: float | None = None

    def check(self) -> None:
        """Refuses invalid values, before the first image.

        Raises:
            ConfigError: naming the field, its choices or range, and the value.
        """
        for name, choices in CHOICES.items():
            if (value := getattr(self, name)) not in choices:
                raise ConfigError(
                    f'postprocess.{name} "{value}" is not available; there are {", ".join(choices)}'
                )
        for name in SHARES:
            value = getattr(self, name)
            if value is None and name.startswith("stuff_"):
                continue
            if value is None or not 0 <= value <= 1:
                raise ConfigError(f"`{name}={value}` is a share; it must be between 0 and 1")
        for name in ("maskness", "class_exponent", "mask_exponent"):
            if not 0 <= (value := getattr(self, name)) < math.inf:
                raise ConfigError(f"{name} must be an exponent of 0 or more, got {value}")
        if self.fill_label is not None and self.fill_label < 0:
            raise ConfigError(f"fill_label must be a label of 0 or more, not {self.fill_label}")
        if self.fill_only and self.fill_label is None:
            raise ConfigError("fill_only needs fill_label; set it too")

    def smallest_area(self, height: int, width: int, *, stuff: bool = False) -> float:
        """`min_area`, or `stuff_min_area`, in pixels of a result of that size; a segment must have more."""
        own = stuff and self.stuff_min_area is not None
        area: float = self.stuff_min_area if own else self.min_area  # type: ignore[assignment]
        # Rounded so that a fraction written as 256 / 640² means 256 pixels and not 255.99….
        return round(area * max(height, width) ** 2, 6)


CHOICES = {
    name: get_args(kind)
    for name, kind in get_type_hints(PostprocessConfig).items()
    if get_origin(kind) is Literal
}
SHARES = (
    "score_threshold",
    "stuff_threshold",
    "stuff_min_area",
    "overlap_threshold",
    "mask_threshold",
    "min_area",
    "nms_iou",
)


OLD_NAMES = {"object_threshold": "score_threshold", "pixel_threshold": "mask_threshold"}
# Once fields of `PostprocessConfig`, now arguments of `Predictor` and `postprocess`.
_NO_FIELDS = ("mode", "non_finite", "output_side")


def renamed(values: dict[str, Any]) -> dict[str, Any]:
    """The values of a model's config by today's names, also from files and recipes of earlier versions.

    Args:
        values: a config as JSON or YAML holds it; left as it is.
    """
    values = {"postprocess" if name == "merge" else name: value for name, value in values.items()}
    if isinstance(inner := values.get("postprocess"), dict):
        kept = {name: value for name, value in inner.items() if name not in _NO_FIELDS}
        values["postprocess"] = {OLD_NAMES.get(name, name): value for name, value in kept.items()}
    return values
