"""Generated outdoor scenes: textured ground, overlapping things of several classes, crowds and void."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ...core.categories import Categories, Category
from ...core.segments import SegmentTable
from ..dataset import Sample
from .noise import Field, around, fractal_noise, smooth_noise

SCENES = Categories(
    [
        Category(1, "ball", True, (220, 60, 60)),
        Category(2, "crate", True, (200, 140, 60)),
        Category(4, "star", True, (240, 220, 70)),
        Category(7, "mushroom", True, (200, 80, 180)),
        Category(9, "pine", True, (40, 130, 60)),
        Category(21, "sky", False, (120, 180, 240)),
        Category(22, "meadow", False, (120, 190, 90)),
        Category(25, "water", False, (50, 90, 190)),
        Category(30, "path", False, (190, 170, 140)),
    ]
)
_SKY, _MEADOW, _WATER, _PATH = 5, 6, 7, 8
_CROWD_LABELS = (0, 2, 3)

Shape = Callable[[Field, Field, np.random.Generator], tuple[Field, Field]]


def scenes(size: tuple[int, int], rng: np.random.Generator) -> Sample:
    """One scene: sky, meadow, ponds (stuff in islands), a path; things from back to front; crowd; void.

    Segment ids are spread over the whole 24-bit range, as in COCO's files.

    Args:
        size: height and width in pixels, from 1×1 up.
        rng: all randomness.
    """
    labels, canvas = _ground(size, rng)
    owner = np.full(size, -1, np.int32)  # number of the thing on top; -1 where the ground shows
    kinds: list[tuple[int, bool]] = []
    horizon = float((labels == _SKY).mean())
    for foot in np.sort(rng.uniform(horizon, 1.05, int(rng.integers(3, 13)))):  # the farthest first
        label, side = int(rng.integers(5)), (0.07 + 0.35 * max(foot - horizon, 0) ** 1.3) * min(size)
        column = rng.uniform(-0.02, 1.02) * size[1]
        if label in _CROWD_LABELS and rng.random() < 0.12:
            _draw_crowd(rng, label, len(kinds), (foot * size[0], column), side, owner, canvas)
            kinds.append((label, True))
        else:
            side *= rng.uniform(0.7, 1.4)
            _draw_thing(rng, label, len(kinds), (foot * size[0], column), side, owner, canvas)
            kinds.append((label, False))
    void = _void(size, rng, owner)
    image = canvas + rng.normal(0, rng.uniform(1, 5), canvas.shape)
    return _sample(np.clip(image + 0.5, 0, 255).astype(np.uint8), labels, owner, kinds, void, rng)


def _sample(
    image: NDArray[np.uint8],
    labels: NDArray[np.int32],
    owner: NDArray[np.int32],
    kinds: list[tuple[int, bool]],
    void: NDArray[np.bool_],
    rng: np.random.Generator,
) -> Sample:
    """Segments of what is left visible: things one by one, each stuff class as one segment."""
    count = len(kinds)
    row = np.where(owner >= 0, owner, count + labels)
    row[void] = -1
    areas = np.bincount(row.reshape(-1) + 1, minlength=count + len(SCENES) + 1)[1:]
    row_labels = np.concatenate([np.array([k for k, _ in kinds], np.int64), np.arange(len(SCENES))])
    crowd = np.concatenate([np.array([c for _, c in kinds], bool), np.zeros(len(SCENES), bool)])
    ids = _distinct_ids(rng, len(areas))
    lookup = np.append(ids, np.int32(0))  # row -1 is void
    present = areas > 0
    table = SegmentTable(ids[present], row_labels[present], crowd[present], areas[present].astype(np.int64))
    return Sample(image, lookup[row], table, info={"image_type": "scenes"})


def _distinct_ids(rng: np.random.Generator, count: int) -> NDArray[np.int32]:
    ids = np.zeros(0, np.int32)
    while len(ids) < count:  # as good as always once
        ids = np.unique(rng.integers(1, 2**24, 2 * count, np.int32))
    return rng.permutation(ids)[:count]


def _ground(size: tuple[int, int], rng: np.random.Generator) -> tuple[NDArray[np.int32], Field]:
    """Stuff labels H×W and the textured image of them, H×W×3 in 0…255."""
    height, width = size
    side = float(max(height, width))
    y = (np.arange(height, dtype=np.float32)[:, None] + 0.5) / height
    x = (np.arange(width, dtype=np.float32)[None] + 0.5) / width
    ridge = 0.03 * smooth_noise(rng, 1, width, 0.3 * side) + 0.01 * smooth_noise(rng, 1, width, 0.05 * side)
    horizon = np.float32(rng.uniform(0.2, 0.45)) + ridge
    depth = np.clip((y - horizon) / (1 - horizon), 0, 1)  # 0 at the horizon, 1 at the lower edge
    labels = np.where(y < horizon, _SKY, _MEADOW).astype(np.int32)
    ponds = smooth_noise(rng, height, width, 0.22 * side) + 0.3 * smooth_noise(
        rng, height, width, 0.06 * side
    )
    labels[(labels == _MEADOW) & (ponds > rng.uniform(0.7, 1.2)) & (depth > 0.06)] = _WATER
    bend = (
        rng.uniform(0.2, 0.8) + rng.uniform(-0.5, 0.5) * depth + rng.uniform(-0.15, 0.15) * np.sin(5 * depth)
    )
    labels[(labels != _SKY) & (np.abs(x - bend) < 0.012 + rng.uniform(0.04, 0.12) * depth)] = _PATH
    fine, wide = max(1.0, 0.012 * side), 0.15 * side
    sky = _mix((95, 150, 225), (215, 228, 240), np.clip(y / horizon, 0, 1) ** 1.5)
    clouds = np.clip(fractal_noise(rng, height, width, scale=wide) - 0.3, 0, 1)[..., None]
    sky = sky + (np.float32(248) - sky) * clouds
    grass = fractal_noise(rng, height, width, scale=fine, octaves=2) * (0.4 + 0.6 * depth)
    meadow = _mix((120, 150, 80), (60, 125, 40), depth) * (1 + 0.16 * grass)[..., None]
    meadow *= (1 + 0.1 * fractal_noise(rng, height, width, scale=wide, octaves=2))[..., None]
    ripples = np.sin(
        y * height / max(fine, 1.0) * 0.9 + 2 * fractal_noise(rng, height, width, scale=wide, octaves=2)
    )
    water = _mix((110, 150, 190), (30, 80, 130), depth) * (1 + 0.07 * ripples)[..., None]
    gravel = fractal_noise(rng, height, width, scale=max(1.0, fine / 3), octaves=2)
    path = _mix((200, 185, 160), (165, 140, 105), depth) * (1 + 0.08 * gravel)[..., None]
    textures = {_SKY: sky, _MEADOW: meadow, _WATER: water, _PATH: path}
    canvas = np.zeros((height, width, 3), np.float32)
    for label, texture in textures.items():
        where = labels == label
        canvas[where] = np.broadcast_to(texture, canvas.shape)[where]
    return labels, canvas * np.float32(rng.uniform(0.75, 1.1))


def _mix(far: tuple[int, int, int], near: tuple[int, int, int], share: Field) -> Field:
    """Colours between two, …×3 float32; `share` 0 gives the first."""
    share = share[..., None]
    return np.asarray(far, np.float32) * (1 - share) + np.asarray(near, np.float32) * share


def _draw_thing(
    rng: np.random.Generator,
    label: int,
    number: int,
    foot: tuple[float, float],
    side: float,
    owner: NDArray[np.int32],
    canvas: Field,
) -> None:
    """Paints one thing that stands on `foot` (y, x) and is about `side` pixels high, over what is there."""
    near = around((foot[0] - 0.5 * side, foot[1]), int(0.75 * side) + 2, owner.shape)
    if near is None:
        return
    window, down, aside = near
    y, x = np.broadcast_arrays(down / np.float32(side / 2), aside / np.float32(side / 2))
    distance, tone = _SHAPES[label](y, x, rng)
    alpha = np.clip(0.5 - distance * np.float32(side / 2), 0, 1)[..., None]
    color = np.asarray(SCENES[label].color, np.float32) * rng.uniform(0.7, 1.15, 3).astype(np.float32)
    light = 0.8 - 0.22 * y - 0.14 * x  # from above and left
    grain = 1 + 0.06 * fractal_noise(rng, *_extent(y), scale=max(1.0, 0.12 * side), octaves=2)
    painted = color * (light * tone * grain)[..., None]
    patch = canvas[window]
    patch += alpha * (painted - patch)
    owner[window][alpha[..., 0] > 0.5] = number


def _draw_crowd(
    rng: np.random.Generator,
    label: int,
    number: int,
    foot: tuple[float, float],
    side: float,
    owner: NDArray[np.int32],
    canvas: Field,
) -> None:
    """Many small things close together that carry one number."""
    for row in np.sort(rng.normal(0, 0.35, int(rng.integers(12, 30)))):
        place = (foot[0] + row * side, foot[1] + rng.normal(0, 1.0) * side)
        _draw_thing(rng, label, number, place, max(3.0, 0.35 * side), owner, canvas)


def _void(size: tuple[int, int], rng: np.random.Generator, owner: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Where nobody labelled: thin seams around some things and now and then a patch, H×W bool."""
    seam = np.zeros(size, bool)
    seam[1:] |= owner[1:] != owner[:-1]
    seam[:, 1:] |= owner[:, 1:] != owner[:, :-1]
    patches = smooth_noise(rng, size[0], size[1], 0.2 * max(size)) > rng.uniform(1.6, 2.6)
    some = smooth_noise(rng, size[0], size[1], 0.3 * max(size)) > 0.3
    return (seam & some) | (patches & (owner < 0))


# Shapes. Given y (down) and x in half-heights, each returns the signed distance to the outline (inside < 0)
# and how bright the surface is.


def _ball(y: Field, x: Field, rng: np.random.Generator) -> tuple[Field, Field]:
    radius = np.hypot(y, x)
    turn = rng.uniform(0, np.pi)
    stripes = np.sign(np.sin(6 * (x * np.cos(turn) + y * np.sin(turn))))
    shine = np.exp(-((y + 0.4) ** 2 + (x + 0.35) ** 2) / 0.06)
    return radius - 0.98, 0.85 + 0.18 * stripes + 0.7 * shine


def _crate(y: Field, x: Field, rng: np.random.Generator) -> tuple[Field, Field]:
    turn, wide = rng.normal(0, 0.12), rng.uniform(0.6, 1.0)
    u, v = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    outline = np.maximum(np.abs(u) - wide, np.abs(v) - 0.95)
    boards = 0.85 + 0.25 * (np.sin(9 * v) > -0.85)
    frame = (np.maximum(np.abs(u) / wide, np.abs(v) / 0.95) > 0.82) * 0.25
    return outline, boards + frame


def _star(y: Field, x: Field, rng: np.random.Generator) -> tuple[Field, Field]:
    points, turn = int(rng.integers(4, 7)), rng.uniform(0, np.pi)
    angle = np.arctan2(y, x) + turn
    wave = np.abs(((angle * points / (2 * np.pi)) % 1) - 0.5) * 2  # 1 at a tip, 0 between two
    return (np.hypot(y, x) - (0.42 + 0.56 * wave)) * 0.6, 0.9 + 0.25 * wave


def _mushroom(y: Field, x: Field, rng: np.random.Generator) -> tuple[Field, Field]:
    wide = rng.uniform(0.75, 1.0)
    cap = np.maximum(np.hypot((y + 0.1) / 0.88, x / wide) - 1, y + 0.1)
    stem = np.maximum(np.abs(x) - (0.2 + 0.06 * y), np.maximum(y - 0.98, -0.3 - y))
    dots = np.sin(7 * x + rng.uniform(0, 6)) * np.sin(7 * y + rng.uniform(0, 6)) > 0.55
    return np.minimum(cap, stem), np.where(cap < stem, 0.9 + 0.6 * dots, 1.35)


def _pine(y: Field, x: Field, rng: np.random.Generator) -> tuple[Field, Field]:
    slim, tiers = rng.uniform(0.45, 0.7), rng.integers(3, 5)
    down = (y + 1) / 1.7  # 0 at the tip, 1 at the lowest branches
    tooth = (down * tiers) % 1
    crown = np.maximum((np.abs(x) - slim * down * (0.62 + 0.38 * tooth)) * 0.8, np.maximum(-1 - y, y - 0.7))
    trunk = np.maximum(np.abs(x) - 0.09, np.maximum(y - 0.98, 0.6 - y))
    return np.minimum(crown, trunk), np.where(crown < trunk, 0.65 + 0.5 * tooth, 1.0)


_SHAPES: tuple[Shape, ...] = (_ball, _crate, _star, _mushroom, _pine)


def _extent(field: Field) -> tuple[int, int]:
    return field.shape[0], field.shape[1]
