"""From an image to the network input: stretch contrast, resize, normalise, pad; the same everywhere."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import ConfigError
from .config import InputConfig
from .proposals import Geometry
from .resize import Taps, interpolate, resize_bilinear, resize_nearest

__all__ = [
    "fitted_size",
    "normalize",
    "prepare",
    "resize_bilinear",
    "resize_nearest",
    "scaled_size",
    "stretch",
]

# Images are resized a band of rows at a time, of about this many values, to stay in the caches.
BAND_VALUES = 1 << 16


def prepare(
    image: NDArray[Any],
    config: InputConfig,
    *,
    whole: tuple[int, int] | None = None,
    dtype: type[np.float32 | np.uint8] = np.float32,
    canvas: tuple[int, int] | None = None,
    levels: tuple[float, float] | None = None,
) -> tuple[NDArray[Any], Geometry]:
    """Turn one image into the network input.

    The image is stretched if the model needs it, resized (bilinear, half-pixel centres, no antialiasing),
    normalised, and padded right and below with the mean colour, which is 0 after normalisation.

    Args:
        image: H×W×C uint8 or uint16, as many channels as the config has.
        config: the model's input; see `InputConfig` for the two modes.
        whole: (height, width) of the image of which `image` is a half, a quarter or an eighth (as
            `read_reduced` gives it); the geometry is then the whole image's.
        dtype: `np.uint8` for exported files that normalise for themselves.
        canvas: (height, width) of the network's input where it should be another one.
        levels: the values that become black and white where the image is part of another (`stretch_levels`).

    Returns:
        The network's input, C×h×w float32 normalised, or h×w×C uint8 (0…255, rounded) for `np.uint8`; and how
        it lies on the image.

    Raises:
        ConfigError: another number of channels than the model takes.
    """
    if image.ndim != 3 or image.shape[2] != config.channels:
        raise ConfigError(
            f"an image of shape {image.shape}, but the model takes {config.channels} channels "
            "(a model of others is made with `in_channels`)"
        )
    size = whole or (image.shape[0], image.shape[1])
    scaled = scaled_size(size, config)
    if canvas is None:
        own = (_multiple(scaled[0], config.multiple), _multiple(scaled[1], config.multiple))
        canvas = config.size if config.mode == "fit" else own
    # The last row and column of a reduced image may stand for fewer pixels than the others.
    step = 1
    while step * image.shape[0] < size[0] or step * image.shape[1] < size[1]:
        step *= 2
    taps = [Taps.resize(image.shape[i], scaled[i], size[i] / step) for i in (0, 1)]
    if dtype is np.uint8:
        mean = np.clip(255 * np.array(config.mean) + 0.5, 0, 255).astype(np.uint8)
        padded = np.tile(mean, (*canvas, 1))
        planes = padded.transpose(2, 0, 1)
    else:
        padded = planes = np.zeros((config.channels, *canvas), np.float32)
    _fill(planes[:, : scaled[0], : scaled[1]], np.ascontiguousarray(image), taps[0], taps[1], config, levels)
    scale = scaled[0] / size[0], scaled[1] / size[1]
    return padded, Geometry(size, (int(canvas[0]), int(canvas[1])), scale)


def scaled_size(size: tuple[int, int], config: InputConfig) -> tuple[int, int]:
    """The (height, width) that an image of `size` has in the network input, padding left out."""
    if config.mode == "fit":
        return fitted_size(size, config.size)
    return max(round(size[0] * config.scale), 1), max(round(size[1] * config.scale), 1)


def _fill(
    out: NDArray[Any],
    image: NDArray[Any],
    rows: Taps,
    columns: Taps,
    config: InputConfig,
    levels: tuple[float, float] | None = None,
) -> None:
    """Stretch, resize and normalise (or round) an image H×W×C into C×h×w, a band of rows at a time.

    Resizing and normalising are both linear, with weights that sum to one, so their order does not matter:
    normalising comes last, on the fewest pixels, as one multiply-add. No more of the image is read than the
    four neighbours of each output pixel.
    """
    height, width, c = image.shape
    _, h, w = out.shape
    white = white_of(image)
    low, high = levels or stretch_levels(image, config)
    rounds = out.dtype == np.uint8
    if rounds:
        factor, summand = np.array(255 / (high - low), np.float32), np.array(0.5, np.float32)
    else:
        factor, summand = (v[:, None, None] for v in _multiply_add(config, high - low))
    # One row of bytes: all reds of the output, then all greens, then all blues.
    left, right = ((c * at + np.arange(c)[:, None]).ravel() for at in (columns.low, columns.high))
    weight = np.tile(columns.weight, c)
    lines = image.reshape(height, c * width)
    same_rows = h == height and not rows.weight.any()
    same_columns = w == width and not columns.weight.any()

    def values(part: NDArray[Any]) -> NDArray[np.float32]:
        result = part.astype(np.float32)
        if (low, high) != (0.0, white):
            result -= np.float32(low)
            np.clip(result, 0, np.float32(high - low), out=result)
        return result

    few = width > 2 * w  # then it pays to pick the columns before anything is calculated
    band = max(BAND_VALUES // (c * (w if few else max(w, width))), 1)
    for top in range(0, h, band):
        part = slice(top, top + band)
        above, below = lines[rows.low[part]], lines[rows.high[part]]
        share = rows.weight[part, None]
        if few:
            first = interpolate(values(above.take(left, 1)), values(below.take(left, 1)), share)
            second = interpolate(values(above.take(right, 1)), values(below.take(right, 1)), share)
        else:
            both = values(above) if same_rows else interpolate(values(above), values(below), share)
            first = both.take(left, 1)
            second = first if same_columns else both.take(right, 1)
        line = first if same_columns else interpolate(first, second, weight)
        target = out[:, part]
        result = np.empty(target.shape, np.float32) if rounds else target
        np.multiply(line.reshape(-1, c, w).transpose(1, 0, 2), factor, out=result)
        result += summand
        if rounds:
            target[:] = result  # rounded down


def fitted_size(size: tuple[int, int], canvas: tuple[int, int]) -> tuple[int, int]:
    """The (height, width) of an image scaled to fit another: aspect kept, halves to even, at least 1.

    float32 arithmetic as in the resize-and-crop of the TensorFlow model garden. An image at most one pixel
    smaller than the network input keeps its size: Cityscapes' 1024×2048 is padded to 1025×2049, as in
    DeepLab2.
    """
    if all(0 <= c - s <= 1 for c, s in zip(canvas, size)):
        return size
    sides = np.array(size, np.float32)
    k = (np.array(canvas, np.float32) / sides).min()
    height, width = np.maximum(np.round(sides * k), 1).astype(int)
    return int(height), int(width)


def normalize(image: NDArray, config: InputConfig, *, unit: bool = False) -> NDArray[np.float32]:
    """`(v / 255 - mean) / std` per channel.

    Args:
        image: …×C, values 0…255, or 0…1 with `unit`.
        config: holds mean and std.
        unit: the values lie in 0…1 already.

    Returns:
        …×C float32.
    """
    factor, summand = _multiply_add(config, 1 if unit else 255)
    values = image.astype(np.float32)
    values *= factor
    values += summand
    return values


def _multiply_add(config: InputConfig, white: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(C,) a and b so that `a·v + b` is `(v / white - mean) / std`."""
    mean, std = np.array(config.mean), np.array(config.std)
    return (1 / (white * std)).astype(np.float32), (-mean / std).astype(np.float32)


def stretch(image: NDArray[Any], percentiles: tuple[float, float]) -> NDArray[np.float32]:
    """Map an image's low and high percentile to 0 and 1 and clip: one range over all channels.

    An image whose percentiles coincide (a few bright spots on black) is stretched over all the values it
    has; one of a single value is only divided by the largest there can be.

    Args:
        image: H×W[×C] uint8 or uint16.
        percentiles: low and high, in percent.

    Returns:
        Same shape, float32 in 0…1.
    """
    low, high = _stretch_range(image, percentiles)
    values = np.arange(int(white_of(image)) + 1)
    table = np.clip((values - low) / (high - low), 0, 1).astype(np.float32)
    return table[image]


def white_of(image: NDArray[Any]) -> float:
    """The largest value of an image's type: 255 of bytes, 65535 of uint16."""
    return 65535.0 if image.dtype == np.uint16 else 255.0


def stretch_levels(image: NDArray[Any], config: InputConfig) -> tuple[float, float]:
    """The values of an image that become black and white in the network's input."""
    if config.stretch == "percentile":
        return _stretch_range(image, config.percentiles)
    return 0.0, white_of(image)


def _stretch_range(image: NDArray[Any], percentiles: tuple[float, float]) -> tuple[float, float]:
    """The values that `stretch` maps to 0 and 1."""
    # Pillow counts bytes three times as fast as np.bincount, which makes 64-bit numbers of them first.
    lines = np.ascontiguousarray(image).reshape(len(image), -1)
    if image.dtype == np.uint16:
        counts = np.bincount(lines.ravel(), minlength=65536)
    else:
        counts = np.array(Image.frombuffer("L", lines.shape[::-1], lines, "raw", "L", 0, 1).histogram())
    low, high = _percentiles(counts, percentiles)
    if high <= low:
        used = np.flatnonzero(counts)
        low, high = float(used[0]), float(used[-1])
    return (low, high) if high > low else (0.0, white_of(image))


def _percentiles(counts: NDArray[np.integer], percentiles: tuple[float, float]) -> tuple[float, float]:
    """`np.percentile` (linear) of the values 0, 1, … that occur `counts` times, without sorting them."""
    cumulative = np.cumsum(counts)
    positions = np.array(percentiles) / 100 * (cumulative[-1] - 1)
    below = np.floor(positions)
    low = np.searchsorted(cumulative, below, side="right")
    high = np.searchsorted(cumulative, np.ceil(positions), side="right")
    values = low + (positions - below) * (high - low)
    return float(values[0]), float(values[1])


def _multiple(length: int, step: int) -> int:
    return -(-length // step) * step
