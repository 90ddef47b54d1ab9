"""Generated images of cell nuclei under the fluorescence microscope."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...core.categories import Categories, Category
from ...core.segments import SegmentTable
from ..dataset import Sample
from .noise import Field, around, blurred, smooth_noise

CELLS = Categories(
    [Category(1, "nucleus", True, (220, 60, 60)), Category(2, "background", False, (40, 40, 60))]
)
MAX_NUCLEI = 400


@dataclass(frozen=True, slots=True)
class _Look:
    """What the nuclei of one image have in common: radius in pixels, its spread, and how they are built."""

    radius: float
    spread: float
    elongation: float
    lobes: float
    chromatin: float
    brightness: float
    brightness_spread: float
    coverage: float
    clustering: float


def cells(size: tuple[int, int], rng: np.random.Generator) -> Sample:
    """One grey image of nuclei: many sizes, touching clusters, uneven light, blur and noise.

    The background is one stuff segment (id 1), each nucleus a thing segment (ids 2, 3, …).

    Args:
        size: height and width in pixels, from 1×1 up.
        rng: all randomness.
    """
    height, width = size
    look = _draw_look(rng)
    ids = np.zeros(size, np.int32)
    light = np.zeros(size, np.float32)
    wanted = look.coverage * height * width / (np.pi * look.radius**2)
    _place_nuclei(rng, look, min(MAX_NUCLEI, int(wanted + rng.random())), ids, light)
    image = _expose(rng, look, light)
    ids, areas = _numbered(ids)
    labels = np.ones(len(areas), np.int64)
    labels[1:] = 0
    present = areas > 0
    segments = SegmentTable(
        np.arange(1, len(areas) + 1, dtype=np.int32)[present],
        labels[present],
        np.zeros(int(present.sum()), bool),
        areas[present],
    )
    return Sample(np.repeat(image[..., None], 3, axis=2), ids, segments, info={"image_type": "cells"})


def _draw_look(rng: np.random.Generator) -> _Look:
    """Small round nuclei at low magnification, or larger oval ones at high magnification."""
    small = rng.random() < 0.5
    return _Look(
        radius=float(rng.uniform(5.5, 9.0) if small else rng.uniform(11.0, 17.0)),
        spread=float(rng.uniform(0.12, 0.3)),
        elongation=float(rng.uniform(0.1, 0.3) if small else rng.uniform(0.25, 0.5)),
        lobes=float(rng.uniform(0.015, 0.04)),
        chromatin=float(rng.uniform(0.08, 0.2)),
        brightness=float(np.exp(rng.uniform(np.log(45), np.log(140)))),
        brightness_spread=float(rng.uniform(0.15, 0.4)),
        coverage=float(rng.uniform(0.06, 0.2)),
        clustering=float(rng.uniform(0.2, 0.8)),
    )


def _place_nuclei(
    rng: np.random.Generator, look: _Look, count: int, ids: NDArray[np.int32], light: Field
) -> None:
    """Adds nuclei to `ids` (1, 2, …) and `light`, one after the other because each avoids the rest."""
    height, width = ids.shape
    centers: list[tuple[float, float, float]] = []
    for number in range(1, count + 1):
        for _ in range(12):
            radius = look.radius * float(np.exp(look.spread * np.clip(rng.standard_normal(), -2.2, 2.2)))
            if centers and rng.random() < look.clustering:  # beside another one, often touching it
                y, x, other = centers[int(rng.integers(len(centers)))]
                angle, away = rng.uniform(0, 2 * np.pi), (radius + other) * rng.uniform(0.85, 1.9)
                y, x = y + away * np.sin(angle), x + away * np.cos(angle)
            else:
                y, x = rng.uniform(-0.5, height + 0.5), rng.uniform(-0.5, width + 0.5)
            if _paint(rng, look, number, (y, x), radius, ids, light):
                centers.append((y, x, radius))
                break


def _paint(
    rng: np.random.Generator,
    look: _Look,
    number: int,
    center: tuple[float, float],
    radius: float,
    ids: NDArray[np.int32],
    light: Field,
) -> bool:
    """One nucleus; False, and nothing painted, where it lies outside or too much on top of another."""
    near = around(center, int(2.2 * radius) + 3, ids.shape)
    if near is None:
        return False
    window, dy, dx = near
    stretch = float(np.exp(0.5 * min(abs(rng.normal(0.0, look.elongation)), 0.9) + 0.03))
    turn = rng.uniform(0, np.pi)
    u = (dx * np.cos(turn) + dy * np.sin(turn)) / np.float32(radius * stretch)
    v = (dy * np.cos(turn) - dx * np.sin(turn)) / np.float32(radius / stretch)
    v = v + np.float32(rng.normal(0, 0.12)) * (u * u - 0.5)  # a slight bend, as of a bean
    outline = np.ones_like(u)
    angle = np.arctan2(v, u)
    for order in (2, 3, 4, 5):
        lobe = rng.normal(0, 2 * look.lobes / order)
        outline += np.float32(lobe) * np.cos(order * angle + np.float32(rng.uniform(0, 2 * np.pi)))
    distance = np.hypot(u, v) / outline  # 0 in the middle, 1 on the rim
    inside = distance < 1
    area = int(inside.sum())
    patch = ids[window]
    free = inside & (patch == 0)
    if area < 6 or free.sum() < 0.9 * area:
        return False
    brightness = float(np.exp(look.brightness_spread * rng.standard_normal()))
    if rng.random() < 0.04:  # dividing or dying: condensed and bright
        brightness *= rng.uniform(1.6, 2.6)
    texture = 1 + np.float32(look.chromatin) * smooth_noise(
        rng, u.shape[0], u.shape[1], max(1.3, 0.16 * radius)
    )
    texture += np.float32(0.6 * look.chromatin) * smooth_noise(
        rng, u.shape[0], u.shape[1], max(1.0, 0.45 * radius)
    )
    for _ in range(int(rng.integers(0, 4)) if radius > 8 else 0):  # nucleoli hold little of the dye
        spot = np.hypot(u - rng.uniform(-0.5, 0.5), v - rng.uniform(-0.5, 0.5)) / rng.uniform(0.1, 0.2)
        texture -= np.float32(rng.uniform(0.15, 0.45)) * np.exp(-(spot**2)).astype(np.float32)
    dome = 0.72 + 0.28 * np.sqrt(np.clip(1 - distance**2, 0, 1))
    softness = rng.uniform(1.0, 2.5)  # pixels from dark to bright; the outline lies half-way
    rim = np.clip((1 - distance) * np.float32(radius / softness) + 0.5, 0, 1)
    shown = np.where(
        (patch == 0) | (patch == number), np.float32(1), np.float32(0.3)
    )  # neighbours hardly add up
    light[window] += np.float32(brightness) * shown * rim * dome * np.clip(texture, 0.2, 2)
    patch[free] = number
    return True


def _expose(rng: np.random.Generator, look: _Look, light: Field) -> NDArray[np.uint8]:
    """What the camera makes of the light: haze, lens blur, uneven field, offset and noise; uint8."""
    height, width = light.shape
    haze = blurred(light, look.radius * rng.uniform(1.5, 3.0))
    signal = blurred(light, rng.uniform(0.6, 1.3)) + np.float32(rng.uniform(0.03, 0.16)) * haze
    side = max(height, width)
    field = 1 + np.float32(rng.uniform(0.03, 0.18)) * smooth_noise(rng, height, width, 0.8 * side)
    offset, glow = rng.uniform(2, 13), rng.uniform(0, 5)
    if rng.random() < 0.2:
        glow *= 3  # out-of-focus light from somewhere else
    background = offset + np.float32(glow) * np.clip(smooth_noise(rng, height, width, 0.5 * side), 0, 3)
    exposed = background + np.float32(look.brightness) * signal * np.clip(field, 0.4, 1.8)
    photons = rng.uniform(1.5, 9.0)  # per grey level
    exposed = rng.poisson(np.clip(exposed, 0, None) * photons) / photons
    exposed = exposed + rng.normal(0, rng.uniform(0.2, 0.8), light.shape)
    return np.clip(exposed + 0.5, 0, 255).astype(np.uint8)


def _numbered(ids: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Ids without gaps, background 1 and nuclei 2…, and the areas from id 1 on."""
    present = np.flatnonzero(np.bincount(ids.reshape(-1)))
    present = np.union1d([0], present)
    renumbered = np.searchsorted(present, ids).astype(np.int32) + 1
    return renumbered, np.bincount(renumbered.reshape(-1), minlength=len(present) + 1)[1:].astype(np.int64)
