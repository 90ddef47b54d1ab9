"""Panoptic copy-paste on id maps: objects and stuff of one image on another.

Two public forms: that of the TensorFlow model garden (`PanopticCopyPaste`), which MaskConver's R50 recipes
use, and that of DeepLab2 (`data/sample_generator.py`), which kMaX-DeepLab and ReMaX use.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ...core.segments import SegmentTable
from ...data.dataset import Sample
from .geometry import crop_image, crop_map, resize_crop_geometry


@dataclass
class CopyPasteConfig:
    """How one image is pasted on another.

    Attributes:
        probability: probability that anything is pasted; 0 switches it off, the reference's recipes have 1.
        frequency: probability that an object, or a stuff class, of the second image is pasted; used where
            `things` or `stuff` is `each`.
        things: `each` object is drawn on its own; `all` are pasted (DeepLab2).
        stuff: `each` class is drawn on its own; `number` draws how many segments of the second image are
            chosen, from none to all, then which, and pastes the stuff among them (DeepLab2).
        scale: range of the first image's scale jitter.
        pasted_scale: range of the second image's scale jitter.
        stuff_drop: probability that a pixel of pasted stuff is left out.
        place: where an image smaller than the network input lies: both `top_left` (model garden); `random`,
            the second one anywhere; `both_random`, both anywhere (DeepLab2).
        padding: what becomes of pixels that neither image covers: `void`, black (model garden); or `ignore`,
            padding as everywhere else: the mean colour, left out of the losses (DeepLab2).
        autoaugment_each: AutoAugment varies each image before it is scaled and padded (DeepLab2), not the
            result.
        classes: names of the classes that are pasted, if not all: the second image is one that has a class
            drawn among them, so that rare ones are seen more often (ours).
    """

    probability: float = 0.0
    frequency: float = 0.5
    things: Literal["each", "all"] = "each"
    stuff: Literal["each", "number"] = "each"
    scale: tuple[float, float] = (0.1, 1.9)
    pasted_scale: tuple[float, float] = (0.05, 1.0)
    stuff_drop: float = 0.0
    place: Literal["top_left", "random", "both_random"] = "top_left"
    padding: Literal["void", "ignore"] = "void"
    autoaugment_each: bool = False
    classes: tuple[str, ...] | None = None


def copy_paste(
    base: Sample,
    pasted: Sample,
    canvas: tuple[int, int],
    *,
    is_thing: NDArray[np.bool_],
    config: CopyPasteConfig,
    flip: float,
    rng: np.random.Generator,
    fill: NDArray[np.float32] | float = 0.0,
    native: bool = False,
) -> Sample:
    """Both images flipped and scaled on their own, then parts of the second on the first.

    Args:
        base, pasted: from a reader.
        canvas: (height, width) of the result.
        is_thing: (C,) bool by label.
        config: the choices.
        flip: probability of each image's own horizontal flip.
        rng: where all draws come from.
        fill: (C,) values, as the image has them, of what no image covers.
        native: without scale jitter the images keep their pixels; otherwise they are fitted to the canvas.

    Returns:
        The sample at the size of the network input. The image has the type of `base`, areas are 0 for "not
        stated", and ids are 0 on void and -1 on what counts as padding.
    """
    place = _place(rng) if config.place == "both_random" else (0.0, 0.0)
    first = _on_canvas(base, canvas, config.scale, flip, place, rng, fill, native)
    place = (0.0, 0.0) if config.place == "top_left" else _place(rng)
    second = _on_canvas(pasted, canvas, config.pasted_scale, flip, place, rng, fill, native)
    chosen = choose_segments(pasted.segments, is_thing, config, rng)
    where = np.isin(second.ids, pasted.segments.ids[chosen])
    if config.stuff_drop:
        stuff = pasted.segments.ids[chosen & ~is_thing[pasted.segments.labels]]
        where &= ~np.isin(second.ids, stuff) | (rng.random(where.shape) > config.stuff_drop)
    result = paste(first, second, where, dtype=base.image.dtype)
    if config.padding == "void":
        np.maximum(result.ids, 0, out=result.ids)
    return result


def choose_segments(
    segments: SegmentTable, is_thing: NDArray[np.bool_], config: CopyPasteConfig, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Which rows are pasted, (S,) bool, as `config.things` and `config.stuff` say; crowd never."""
    things = is_thing[segments.labels]
    by_row, by_class = rng.random(len(segments)), rng.random(len(is_thing))
    drawn = np.where(things, by_row, by_class[segments.labels]) < config.frequency
    if config.stuff == "number":
        classes = np.unique(segments.labels[~things])
        number = int(rng.integers(int(things.sum()) + len(classes) + 1))
        order = rng.permutation(int(things.sum()) + len(classes))[: len(classes)]  # the places of the classes
        drawn = np.where(things, drawn, np.isin(segments.labels, classes[order < number]))
    if config.things == "all":
        drawn = drawn | things
    return drawn & ~segments.crowd


def _place(rng: np.random.Generator) -> tuple[float, float]:
    return float(rng.random()), float(rng.random())


def paste(base: Sample, pasted: Sample, where: NDArray[np.bool_], *, dtype: DTypeLike = np.uint8) -> Sample:
    """The base with the pixels of `where` from the second sample, its ids raised above the base's.

    Args:
        base, pasted: images H×W×C of any real type, of one size.
        where: H×W bool; true on pixels of segments to be pasted.
        dtype: of the result's image.
    """
    # Above the ids of segments that are cut off, too: they are still in the table.
    shift = max(int(base.ids.max(initial=0)), int(base.segments.ids.max(initial=0))) + 1
    ids = np.where(where, pasted.ids + np.int32(shift), base.ids)
    image = base.image.astype(dtype)
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
    fill: NDArray[np.float32] | float,
    native: bool,
) -> Sample:
    """A sample flipped, scaled, and cut or padded (`fill`, id -1) to the canvas; its image is float32."""
    image, ids = sample.image, sample.ids
    if flip and rng.random() < flip:
        image, ids = image[:, ::-1], ids[:, ::-1]
    jitter = None if scale == (1.0, 1.0) else float(rng.uniform(*scale))
    cut = (float(rng.random()), float(rng.random()))
    size = ids.shape[0], ids.shape[1]
    geometry = resize_crop_geometry(size, size if native else canvas, canvas, jitter=jitter, place=cut)
    h, w = geometry.covered
    top, left = int((canvas[0] - h) * place[0]), int((canvas[1] - w) * place[1])
    window = slice(top, top + h), slice(left, left + w)
    result, id_canvas = np.empty((*canvas, image.shape[2]), np.float32), np.full(canvas, -1, np.int32)
    result[:] = fill
    result[window], id_canvas[window] = crop_image(image, geometry), crop_map(ids, geometry)
    meta = sample.image_id, sample.file_name, sample.info
    return Sample(result, id_canvas, sample.segments, *meta)
