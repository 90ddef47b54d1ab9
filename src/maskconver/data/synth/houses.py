"""Generated house fronts: walls with rows of windows below a sky, a street, shrubs in front."""

from __future__ import annotations

from copy import copy

import numpy as np
from numpy.typing import NDArray

from ...core.categories import Categories, Category
from ...core.segments import SegmentTable
from ..dataset import Sample
from .noise import Field, fractal_noise

# The label set of the bundled model `facade`, so that it can be evaluated on these images.
HOUSES = Categories(
    [
        Category(1, "window", True, (245, 190, 60)),
        Category(2, "balcony-fence", True, (140, 200, 90)),
        Category(3, "car", True, (20, 140, 110)),
        Category(4, "shop", True, (60, 40, 160)),
        Category(5, "traffic-infrastructure", True, (60, 220, 130)),
        Category(6, "facade", False, (90, 130, 190)),
        Category(7, "street", False, (190, 60, 130)),
        Category(8, "vegetation", False, (70, 130, 40)),
        Category(9, "fence", False, (170, 120, 80)),
        Category(10, "non-building-infrastructure", False, (200, 110, 40)),
        Category(11, "other", False, (30, 30, 30)),
    ]
)
_WINDOW, _FACADE, _STREET, _VEGETATION, _OTHER = 0, 5, 6, 7, 10
_PLASTER: tuple[tuple[int, int, int], ...] = (
    *((196, 178, 150), (170, 100, 80), (205, 200, 190)),
    *((186, 150, 120), (150, 150, 155), (210, 190, 130)),
)


class _Canvas:
    """The image being painted, the class of every pixel, and the window that owns it."""

    def __init__(self, size: tuple[int, int], rng: np.random.Generator) -> None:
        height, width = size
        self.rng, self.size, self.side = rng, size, float(max(size))
        y = (np.arange(height, dtype=np.float32)[:, None] + 0.5) / height
        x = (np.arange(width, dtype=np.float32)[None] + 0.5) / width
        self.y, self.x = np.broadcast_arrays(y, x)  # in shares of the sides
        self.colour = np.zeros((height, width, 3), np.float32)
        self.labels = np.full(size, _OTHER, np.int32)
        self.window = np.full(size, -1, np.int32)
        self.windows = 0

    def noise(self, scale: float, octaves: int = 4) -> Field:
        """Noise whose bumps are `scale` of the longer side wide."""
        return fractal_noise(self.rng, *self.size, scale=max(1.0, scale * self.side), octaves=octaves)

    def part(
        self, top: float, bottom: float, left: float, right: float
    ) -> tuple[_Canvas, tuple[slice, slice]]:
        """What lies between four edges, in shares of the sides, as a canvas on the same memory."""
        height, width = self.size
        rows = slice(max(0, int(top * height)), max(0, int(bottom * height) + 1))
        columns = slice(max(0, int(left * width)), max(0, int(right * width) + 1))
        part = copy(self)
        for name in ("x", "y", "colour", "labels", "window"):
            setattr(part, name, getattr(self, name)[rows, columns])
        return part, (rows, columns)

    def fill(self, where: NDArray[np.bool_], colour: Field, label: int | None = None) -> None:
        """Paints a region; with a label it covers what was there, windows too."""
        self.colour[where] = np.broadcast_to(colour, self.colour.shape)[where]
        if label is not None:
            self.labels[where], self.window[where] = label, -1


def houses(size: tuple[int, int], rng: np.random.Generator) -> Sample:
    """One row of houses: windows are things; wall, street, shrubs and sky are stuff, one segment per class.

    Args:
        size: height and width in pixels, from 1×1 up.
        rng: all randomness.
    """
    canvas = _Canvas(size, rng)
    sky = np.array([150, 185, 225], np.float32) * (1 - 0.3 * canvas.y[..., None]) + 90 * canvas.y[..., None]
    canvas.fill(np.ones(size, bool), sky + 18 * np.clip(canvas.noise(0.3), 0, 2)[..., None])
    ground, light, left = rng.uniform(0.86, 0.93), rng.uniform(0.85, 1.1), rng.uniform(-0.25, 0.05)
    while left < 1:
        left = _house(canvas, left, ground, light)
    _street(canvas, ground)
    for _ in range(int(rng.integers(1, 4))):
        _shrub(canvas, ground)
    image = np.clip(canvas.colour + rng.normal(0, 3, canvas.colour.shape), 0, 255).astype(np.uint8)
    return _sample(image, canvas)


def _house(canvas: _Canvas, left: float, ground: float, light: float) -> float:
    """Paints one house from `left` on; returns where the next one begins."""
    rng, x, y = canvas.rng, canvas.x, canvas.y
    wide, top = rng.uniform(0.4, 0.75), rng.uniform(0.04, 0.22)
    floors, columns = (int(n) for n in rng.integers(3, 6, 2))
    wall = (x >= left) & (x < left + wide) & (y >= top) & (y < ground)
    courses = 0.05 * ((y * canvas.size[0]) % 7 < 1)
    grain = 1 + 0.05 * canvas.noise(0.08) + 0.05 * rng.standard_normal(canvas.size) - courses
    plaster = np.array(_PLASTER[rng.integers(len(_PLASTER))], np.float32) * np.float32(light)
    canvas.fill(wall, plaster * grain[..., None].astype(np.float32), _FACADE)
    storey, pitch = (ground - top) / floors, wide / columns
    for floor in range(floors + 1):  # cornices, and the shade below them
        at = top + floor * storey
        cornice = wall & (np.abs(y - at) < (0.012 if floor in (0, floors) else 0.004))
        canvas.colour[cornice] *= 1.2
        canvas.colour[wall & (y > at) & (y < at + 0.012) & ~cornice] *= 0.75
    opening = storey * rng.uniform(0.5, 0.62), pitch * rng.uniform(0.36, 0.5)
    frame = np.array([232, 230, 224], np.float32) * np.float32(rng.uniform(0.8, 1.05))
    for floor in range(floors):
        for column in range(columns):
            center = top + (floor + 0.52) * storey, left + (column + 0.5) * pitch
            reach = 0.65 * opening[0], 0.65 * opening[1]
            part, where = canvas.part(*(c + d for c, r in zip(center, reach) for d in (-r, r)))
            _window(part, wall[where], center, opening, frame, canvas.windows)
            canvas.windows += 1
    return float(left + wide)


def _window(
    canvas: _Canvas,
    wall: NDArray[np.bool_],
    center: tuple[float, float],
    size: tuple[float, float],
    frame: Field,
    number: int,
) -> None:
    """Glass that mirrors the sky, curtains at times, a frame, a sill and its shadow."""
    rng = canvas.rng
    v, u = ((at - c) / (s / 2) for at, c, s in zip((canvas.y, canvas.x), center, size))  # -1…1 inside
    inside = wall & (np.abs(v) < 1) & (np.abs(u) < 1)
    canvas.fill(wall & (np.abs(u) < 1.25) & (v > 1) & (v < 1.1), 0.9 * frame)
    canvas.colour[wall & (np.abs(u) < 1.25) & (v > 1.1) & (v < 1.22)] *= 0.65
    glass = np.array([45, 55, 68], np.float32) * np.float32(rng.uniform(0.6, 1.5))
    mirrored = rng.uniform(0, 40) * np.clip(0.6 - v - 0.5 * u, 0, 1)[..., None]
    canvas.fill(inside, glass + mirrored * np.array([0.8, 0.95, 1.1], np.float32))
    if rng.random() < 0.6:
        folds = (150 + 25 * np.sin(40 * u))[..., None] * np.array([1, 0.98, 0.92], np.float32)
        canvas.fill(inside & (np.abs(u) > rng.uniform(0.3, 0.8)), folds)
    bars = inside & ((np.abs(u) > 0.86) | (np.abs(v) > 0.92) | (np.abs(u) < 0.06) | (np.abs(v + 0.35) < 0.04))
    canvas.fill(bars, frame)
    canvas.colour[inside & (v < -0.75) & ~bars] *= 0.6
    canvas.window[inside], canvas.labels[inside] = number, _WINDOW


def _street(canvas: _Canvas, ground: float) -> None:
    curb = 0.25 * (np.abs(canvas.y - ground - 0.025) < 0.004)
    grey = np.array([118, 116, 114], np.float32)
    canvas.fill(
        canvas.y >= ground, grey * (1 + 0.06 * canvas.noise(0.005, octaves=2) + curb)[..., None], _STREET
    )


def _shrub(canvas: _Canvas, ground: float) -> None:
    rng, (height, width) = canvas.rng, canvas.size
    radius, column = rng.uniform(0.06, 0.15), rng.uniform(0, 1)
    down, aside = canvas.y - (ground - 0.5 * radius), canvas.x - column
    away = np.hypot(aside * width / canvas.side, down * height / canvas.side)
    leaves = (1 + 0.4 * canvas.noise(0.012)) * (1.05 - 0.5 * down / radius)
    green = np.array([58, 86, 38], np.float32) * leaves[..., None].astype(np.float32)
    canvas.fill(away < radius * (1 + 0.22 * canvas.noise(0.04)), green, _VEGETATION)


def _sample(image: NDArray[np.uint8], canvas: _Canvas) -> Sample:
    """Segments of what is left visible: ids 1… for the classes of stuff, then the windows."""
    classes = len(HOUSES)
    row = np.where(canvas.window >= 0, classes + canvas.window, canvas.labels)
    present, inverse = np.unique(row, return_inverse=True)
    labels = np.where(present >= classes, _WINDOW, present).astype(np.int64)
    ids = inverse.reshape(row.shape).astype(np.int32) + np.int32(1)
    areas = np.bincount(ids.reshape(-1))[1:].astype(np.int64)
    numbers = np.arange(1, len(present) + 1, dtype=np.int32)
    table = SegmentTable(numbers, labels, np.zeros(len(present), bool), areas)
    return Sample(image, ids, table, info={"image_type": "houses"})
