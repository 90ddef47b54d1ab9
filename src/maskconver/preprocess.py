"""From a picture to the network's canvas: stretch, normalise, resize, pad; everywhere the same."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .config import InputConfig
from .proposals import Geometry
from .resize import resize_bilinear, resize_nearest

__all__ = ["fitted_size", "normalize", "prepare", "resize_bilinear", "resize_nearest", "stretch"]


def prepare(image: NDArray[np.uint8], config: InputConfig) -> tuple[NDArray[np.float32], Geometry]:
    """Bring one image to the network's canvas.

    The image is stretched if the model asks for it, normalised, resized (bilinear, half-pixel centres, no
    antialiasing) and padded with zeros right and below.

    Args:
        image: H×W×3 uint8 RGB.
        config: the model's input; see `InputConfig` for the two modes.

    Returns:
        The canvas, 3×h×w float32, and how it lies on the image.
    """
    height, width = image.shape[:2]
    if config.mode == "fit":
        canvas = config.size
        scaled = fitted_size((height, width), canvas)
    else:
        scaled = max(round(height * config.scale), 1), max(round(width * config.scale), 1)
        canvas = _multiple(scaled[0], config.multiple), _multiple(scaled[1], config.multiple)
    values = stretch(image, config.percentiles) if config.stretch == "percentile" else image
    # Resizing and normalising are both linear with weights that sum to one, so their order does not matter;
    # only the smaller of the two arrays is normalised when an image is made smaller.
    resized = normalize(resize_bilinear(values, scaled), config, unit=values is not image)
    padded = np.zeros((3, *canvas), np.float32)
    padded[:, : scaled[0], : scaled[1]] = resized.transpose(2, 0, 1)
    scale = scaled[0] / height, scaled[1] / width
    return padded, Geometry((height, width), (int(canvas[0]), int(canvas[1])), scale)


def fitted_size(size: tuple[int, int], canvas: tuple[int, int]) -> tuple[int, int]:
    """The (height, width) of an image scaled to fit a canvas: aspect kept, halves to even, at least 1.

    float32 arithmetic as in the reference's resize-and-crop.
    """
    sides = np.array(size, np.float32)
    k = (np.array(canvas, np.float32) / sides).min()
    height, width = np.maximum(np.round(sides * k), 1).astype(int)
    return int(height), int(width)


def normalize(image: NDArray, config: InputConfig, *, unit: bool = False) -> NDArray[np.float32]:
    """`(v / 255 - mean) / std` per channel.

    Args:
        image: …×3, values 0…255, or 0…1 with `unit`.
        config: holds mean and std.
        unit: the values lie in 0…1 already.

    Returns:
        …×3 float32.
    """
    mean, std = np.array(config.mean, np.float32), np.array(config.std, np.float32)
    values = image.astype(np.float32)
    if not unit:
        values /= 255
    values -= mean
    values /= std
    return values


def stretch(image: NDArray[np.uint8], percentiles: tuple[float, float]) -> NDArray[np.float32]:
    """Map an image's low and high percentile to 0 and 1 and clip: one range over all channels.

    A picture whose percentiles coincide (a few bright spots on black) is stretched over all the values it
    has; one of a single value is only divided by 255.

    Args:
        image: H×W[×C] uint8.
        percentiles: low and high, in percent.

    Returns:
        Same shape, float32 in 0…1.
    """
    counts = np.bincount(image.ravel(), minlength=256)
    low, high = _percentiles(counts, percentiles)
    if high <= low:
        used = np.flatnonzero(counts)
        low, high = float(used[0]), float(used[-1])
    if high <= low:
        low, high = 0.0, 255.0
    table = np.clip((np.arange(256) - low) / (high - low), 0, 1).astype(np.float32)
    return table[image]


def _percentiles(counts: NDArray[np.integer], percentiles: tuple[float, float]) -> tuple[float, float]:
    """`np.percentile` (linear) of the values 0…255 that occur `counts` times, without sorting the pixels."""
    cumulative = np.cumsum(counts)
    positions = np.array(percentiles) / 100 * (cumulative[-1] - 1)
    below = np.floor(positions)
    low = np.searchsorted(cumulative, below, side="right")
    high = np.searchsorted(cumulative, np.ceil(positions), side="right")
    values = low + (positions - below) * (high - low)
    return float(values[0]), float(values[1])


def _multiple(length: int, step: int) -> int:
    return -(-length // step) * step
