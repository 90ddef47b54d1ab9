"""Smooth random fields and blurs that the generated images are made of; NumPy and Pillow only."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Field = NDArray[np.floating[Any]]


def around(
    center: tuple[float, float], reach: int, size: tuple[int, ...]
) -> tuple[tuple[slice, slice], Field, Field] | None:
    """The pixels within reach of a point (y, x), and their offsets from it; None if there are none."""
    top, left = (max(0, int(at) - reach) for at in center)
    bottom, right = (min(n, int(at) + reach + 1) for at, n in zip(center, size))
    if top >= bottom or left >= right:
        return None
    y = np.arange(top, bottom, dtype=np.float32)[:, None] + np.float32(0.5 - center[0])
    x = np.arange(left, right, dtype=np.float32)[None] + np.float32(0.5 - center[1])
    return (slice(top, bottom), slice(left, right)), y, x


def resized(field: Field, height: int, width: int) -> Field:
    """A field at another size, bicubic, float32."""
    image = Image.fromarray(np.ascontiguousarray(field, np.float32))
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC), np.float32)


def smooth_noise(rng: np.random.Generator, height: int, width: int, scale: float) -> Field:
    """Noise of about unit variance whose bumps are `scale` pixels wide, H×W float32."""
    rows, columns = int(height / scale) + 4, int(width / scale) + 4
    grid = rng.standard_normal((rows, columns)).astype(np.float32)
    large = resized(grid, max(1, round(rows * scale)), max(1, round(columns * scale)))
    y, x = (large.shape[0] - height) // 2, (large.shape[1] - width) // 2
    return large[y : y + height, x : x + width]


def fractal_noise(
    rng: np.random.Generator, height: int, width: int, *, scale: float, octaves: int = 4
) -> Field:
    """Sum of smooth noises, each half as wide and 0.55 as strong as the one before, about unit variance."""
    total = np.zeros((height, width), np.float32)
    strength, power = 1.0, 0.0
    for _ in range(octaves):
        total += strength * smooth_noise(rng, height, width, max(scale, 1.0))
        power += strength**2
        scale, strength = scale / 2, strength * 0.55
    return total / np.float32(np.sqrt(power))


def blurred(field: Field, sigma: float) -> Field:
    """Gaussian blur with edge values repeated; wide blurs are computed on a reduced field.

    Args:
        field: H×W float32.
        sigma: standard deviation in pixels.
    """
    height, width = field.shape
    factor = int(sigma / 2)
    if factor >= 2 and min(height, width) > 2 * factor:
        small = Image.fromarray(np.ascontiguousarray(field, np.float32)).reduce(factor)
        return resized(blurred(np.asarray(small, np.float32), sigma / factor), height, width)
    reach = max(1, int(3 * sigma + 0.5))
    offsets = np.arange(-reach, reach + 1)
    kernel = np.exp(-0.5 * (offsets / max(sigma, 1e-3)) ** 2)
    kernel = (kernel / kernel.sum()).astype(np.float32)
    padded = np.pad(field, reach, mode="edge")
    rows = sum(k * padded[i : i + height] for i, k in enumerate(kernel))
    return np.asarray(sum(k * rows[:, i : i + width] for i, k in enumerate(kernel)), np.float32)
