"""Panoptic copy-paste on id maps (augmentation page §6): objects and stuff of one picture on another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ...core.segments import SegmentTable
from ...data.dataset import Sample
from .geometry import crop_image, crop_map, resize_crop_geometry


@dataclass
class CopyPasteConfig:
    """How one picture is pasted on another.

    Attributes:
        probability: of pasting at all; 0 switches it off, the reference's recipes have 1.
        frequency: probability of each object, and of each stuff class, of the second picture to be pasted.
        scale: range of the first picture's scale jitter.
        pasted_scale: range of the second one's.
        stuff_drop: probability of each pixel of pasted stuff to be left out.
        place: where a second picture smaller than the canvas lies: `top_left` as in the reference, `random`.
        padding: what the canvas is that no picture covers: `void`, black pixels that count as void, as in the
            reference; `ignore`, padding as everywhere else.
    """

    probability: float = 0.0
    frequency: float = 0.5
    scale: tuple[float, float] = (0.1, 1.9)
    pasted_scale: tuple[float, float] = (0.05, 1.0)
    stuff_drop: float = 0.0
    place: Literal["top_left", "random"] = "top_left"
    padding: Literal["void", "ignore"] = "void"


def copy_paste(
    base: Sample,
    pasted: Sample,
    canvas: tuple[int, int],
    is_thing: NDArray[np.bool_],
    config: CopyPasteConfig,
    flip: float,
    rng: np.random.Generator,
) -> Sample:
    """Both pictures flipped and scaled on their own, then parts of the second on the first.

    Args:
        base, pasted: from a reader.
        canvas: (height, width) of the result.
        is_thing: (C,) bool by label.
        config: the choices.
        flip: probability of each picture's own horizontal flip.
        rng: where all draws come from.

    Returns:
        The sample at the canvas's size: the image uint8, the areas 0 for "not stated"; ids are 0 on void
        and -1 on what counts as padding.
    """
    first = _on_canvas(base, canvas, config.scale, flip, (0.0, 0.0), rng)
    place = (float(rng.random()), float(rng.random())) if config.place == "random" else (0.0, 0.0)
    second = _on_canvas(pasted, canvas, config.pasted_scale, flip, place, rng)
    chosen = choose_segments(pasted.segments, is_thing, config.frequency, rng)
    where = np.isin(second.ids, pasted.segments.ids[chosen])
    if config.stuff_drop:
        stuff = pasted.segments.ids[chosen & ~is_thing[pasted.segments.labels]]
        where &= ~np.isin(second.ids, stuff) | (rng.random(where.shape) > config.stuff_drop)
    result = paste(first, second, where)
    if config.padding == "void":
        np.maximum(result.ids, 0, out=result.ids)
    return result


def choose_segments(
    segments: SegmentTable, is_thing: NDArray[np.bool_], frequency: float, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Which rows are pasted, (S,) bool: objects and stuff classes each by their own draw, crowd never."""
    things = is_thing[segments.labels]
    by_row, by_class = rng.random(len(segments)), rng.random(len(is_thing))
    drawn = np.where(things, by_row, by_class[segments.labels]) < frequency
    return drawn & ~segments.crowd


def paste(base: Sample, pasted: Sample, where: NDArray[np.bool_]) -> Sample:
    """The base with the pixels of `where` from the second sample, its ids raised by the base's largest + 1.

    Args:
        base, pasted: images H×W×C of any real type, of one size.
        where: H×W bool; true on pixels of segments to be pasted.
    """
    shift = int(base.ids.max(initial=0)) + 1
    ids = np.where(where, pasted.ids + np.int32(shift), base.ids)
    image = base.image.astype(np.uint8)
    np.copyto(image, pasted.image, where=where[..., None], casting="unsafe")
    a, b = base.segments, pasted.segments
    table = SegmentTable(
        np.concatenate([a.ids, b.ids + np.int32(shift)]),
        np.concatenate([a.labels, b.labels]),
        np.concatenate([a.crowd, b.crowd]),
        np.zeros(len(a) + len(b), np.int64),
    )
    return Sample(image, ids, table, base.image_id, base.file_name, base.info)


def _on_canvas(
    sample: Sample,
    canvas: tuple[int, int],
    scale: tuple[float, float],
    flip: float,
    place: tuple[float, float],
    rng: np.random.Generator,
) -> Sample:
    """A sample flipped, scaled, and cut or padded (black, id -1) to the canvas; its image is float32."""
    image, ids = sample.image, sample.ids
    if flip and rng.random() < flip:
        image, ids = image[:, ::-1], ids[:, ::-1]
    jitter = None if scale == (1.0, 1.0) else float(rng.uniform(*scale))
    cut = (float(rng.random()), float(rng.random()))
    geometry = resize_crop_geometry((ids.shape[0], ids.shape[1]), canvas, jitter=jitter, place=cut)
    h, w = geometry.covered
    top, left = int((canvas[0] - h) * place[0]), int((canvas[1] - w) * place[1])
    window = slice(top, top + h), slice(left, left + w)
    result, id_canvas = np.zeros((*canvas, image.shape[2]), np.float32), np.full(canvas, -1, np.int32)
    result[window], id_canvas[window] = crop_image(image, geometry), crop_map(ids, geometry)
    meta = sample.image_id, sample.file_name, sample.info
    return Sample(result, id_canvas, sample.segments, *meta)  # type: ignore[arg-type]
