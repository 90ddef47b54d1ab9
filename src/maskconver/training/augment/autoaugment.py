"""AutoAugment as in `panoptic_deeplab_policy` of the TensorFlow Model Garden: uint8 images in, uint8 out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Step = tuple[str, float, float]
"""Operation, probability in 0…1, level in 0…10."""

PANOPTIC: tuple[tuple[Step, ...], ...] = (
    (("sharpness", 0.4, 1.4), ("brightness", 0.2, 2.0)),
    (("equalize", 0.0, 1.8), ("contrast", 0.2, 2.0)),
    (("sharpness", 0.2, 1.8), ("color", 0.2, 1.8)),
    (("solarize", 0.2, 1.4), ("equalize", 0.6, 1.8)),
    (("sharpness", 0.2, 0.2), ("equalize", 0.2, 1.4)),
)
"""The reference's `panoptic_deeplab_policy`: all its factors are below 1, it never sharpens or brightens."""

POLICIES: dict[str, tuple[tuple[Step, ...], ...]] = {"none": (), "panoptic": PANOPTIC}


def auto_augment(image: Image, policy: Sequence[Sequence[Step]], rng: np.random.Generator) -> Image:
    """One of the policy's sub-policies, drawn uniformly; each of its operations with its own probability.

    Args:
        image: H×W×C uint8; the first three are RGB.
        policy: sub-policies; none leave the image as it is.
        rng: where the draws come from.

    Returns:
        H×W×C uint8; the input itself where nothing was drawn.
    """
    if policy:
        for name, probability, level in policy[int(rng.integers(len(policy)))]:
            if rng.random() < probability:
                image = OPERATIONS[name](image, level)
    return image


def enhancement(level: float) -> np.float32:
    """The factor of brightness, colour, contrast and sharpness at a level: 0.1 at 0, 1.9 at 10."""
    return np.float32(level / 10 * 1.8 + 0.1)


def blend(degenerate: NDArray, image: NDArray, factor: np.float32) -> Image:
    """`degenerate + factor · (image - degenerate)`, cut to whole numbers; exact at 0 and 1."""
    a, b = degenerate.astype(np.float32), image.astype(np.float32)
    if factor in (0, 1):
        return (b if factor else a).astype(np.uint8)
    b -= a
    b *= factor
    b += a
    return (b if 0 < factor < 1 else b.clip(0, 255)).astype(np.uint8)


def brightness(image: Image, level: float) -> Image:
    """Blend with black."""
    values = np.arange(256)
    return blend(np.zeros(256), values, enhancement(level))[image]


def color(image: Image, level: float) -> Image:
    """Blend with grey: 0.2989 R + 0.5870 G + 0.1140 B; grey images and further channels stay."""
    if image.shape[2] != 3:
        return image if image.shape[2] < 3 else np.dstack([color(image[..., :3], level), image[..., 3:]])
    unit = image.astype(np.float32)
    unit *= np.float32(1 / 255)
    grey = (unit @ np.array([0.2989, 0.5870, 0.1140], np.float32)) * np.float32(255.5)
    return blend(grey.astype(np.uint8)[..., None], image, enhancement(level))


def contrast(image: Image, level: float) -> Image:
    """Values move towards or away from their channel's mean: `(x - mean) · factor + mean`."""
    unit = np.arange(256, dtype=np.float32) * np.float32(1 / 255)

    def table(counts: NDArray[np.int64]) -> Image:
        mean = np.float32(counts @ unit.astype(np.float64) / counts.sum())
        moved = (unit - mean) * enhancement(level) + mean
        return (moved.clip(0, 1) * np.float32(255.5)).astype(np.uint8)

    return _by_channel(image, table)


def sharpness(image: Image, level: float) -> Image:
    """Blend with an image smoothed by ones around a 5, divided by 13; the border of one pixel stays."""
    degenerate = image.copy()
    x = image.astype(np.uint16)
    rows = x[:-2] + x[1:-1] + x[2:]
    total = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] + 4 * x[1:-1, 1:-1]
    smooth = total // 13
    # The reference sums float32 products tap by tap. Where 13 divides the total, rounding decides whether its
    # result is this whole number or just below it; everywhere else both are cut to the same number.
    at = np.nonzero(total == 13 * smooth)
    exact = np.zeros(len(at[0]), np.float32)
    for dy, dx in np.ndindex(3, 3):
        weight = np.float64(np.float32((5 if (dy, dx) == (1, 1) else 1) / 13))
        exact = (exact + weight * image[at[0] + dy, at[1] + dx, at[2]]).astype(np.float32)
    smooth[at] = exact
    degenerate[1:-1, 1:-1] = smooth
    return blend(degenerate, image, enhancement(level))


def solarize(image: Image, level: float) -> Image:
    """Values from the threshold on become their negative; the threshold has 8 bits, so that 256 is 0."""
    values = np.arange(256)
    threshold = int(level / 10 * 256) & 255
    return np.where(values < threshold, values, 255 - values).astype(np.uint8)[image]


def solarize_add(image: Image, level: float) -> Image:
    """A sum on the dark half of the values."""
    values = np.arange(256)
    added = (values + int(level / 10 * 110)).clip(0, 255)
    return np.where(values < 128, added, values).astype(np.uint8)[image]


def posterize(image: Image, level: float) -> Image:
    """Only the highest bits stay, at most four."""
    shift = 8 - int(level / 10 * 4)
    return (np.arange(256) >> shift << shift).astype(np.uint8)[image]


def invert(image: Image, level: float = 0) -> Image:
    """The negative."""
    return 255 - image


def auto_contrast(image: Image, level: float = 0) -> Image:
    """Each channel stretched over 0…255."""

    def table(counts: NDArray[np.int64]) -> Image:
        used = np.flatnonzero(counts).astype(np.float32)
        values = np.arange(256, dtype=np.float32)
        if len(used) > 1:
            scale = np.float32(255) / (used[-1] - used[0])
            values = (values * scale - used[0] * scale).clip(0, 255)
        return values.astype(np.uint8)

    return _by_channel(image, table)


def equalize(image: Image, level: float = 0) -> Image:
    """Each channel's histogram made flat, as PIL does."""

    def table(counts: NDArray[np.int64]) -> Image:
        used = counts[counts > 0]
        step = int(used.sum() - used[-1]) // 255
        if step == 0:
            return np.arange(256, dtype=np.uint8)
        raised = (np.cumsum(counts) + step // 2) // step
        return np.concatenate([[0], raised[:-1]]).clip(0, 255).astype(np.uint8)

    return _by_channel(image, table)


def _by_channel(image: Image, table: Callable[[NDArray[np.int64]], Image]) -> Image:
    """Replace values by a table made from each channel's histogram."""
    result = np.empty_like(image)
    for c in range(image.shape[2]):
        channel = np.ascontiguousarray(image[..., c])
        result[..., c] = table(np.bincount(channel.ravel(), minlength=256))[channel]
    return result


OPERATIONS: dict[str, Callable[[Image, float], Image]] = {
    "auto_contrast": auto_contrast,
    "brightness": brightness,
    "color": color,
    "contrast": contrast,
    "equalize": equalize,
    "invert": invert,
    "posterize": posterize,
    "sharpness": sharpness,
    "solarize": solarize,
    "solarize_add": solarize_add,
}
