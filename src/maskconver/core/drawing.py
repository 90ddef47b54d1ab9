"""Drawings of a segmentation: coloured segments over the image, crisp borders, names where there is room."""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import ConfigError
from .categories import Categories
from .config import InputConfig
from .preprocess import stretch
from .segments import Runs, Segment, lookup

GOLDEN = 0.618033988749895
# Names smaller than this cannot be read; names larger than that shout.
FONT_SIZES = (10, 26)


def draw(
    ids: NDArray[np.int32],
    segments: list[Segment],
    categories: Categories,
    *,
    image: NDArray[Any] | None = None,
    alpha: float = 0.45,
    borders: bool = True,
    labels: bool | None = None,
    scores: bool = False,
    by_id: bool = False,
) -> Image.Image:
    """The segments over the image, as `Segmentation.draw` gives it.

    Args:
        ids: H×W segment ids, 0 = void.
        segments: a row for every id.
        categories: the label set.
        image: H×W or H×W×C to draw on, its first three channels or grey, also a Pillow image; black if there
            is none. uint8, or uint16, which is stretched over its values; bool is black and white.
        alpha: strength of the fill, 0…1.
        borders: draw a line around every segment.
        labels: write the category where there is room; None: if there are more than two categories.
        scores: add the score in percent.
        by_id: a thing's colour depends on its id alone, so that it stays where ids do.

    Raises:
        ConfigError: the image has another size than the id map, is of floats or of integers beyond 0…255
            that are no uint16, or alpha is not in 0…1.
    """
    if image is None:
        image, alpha = np.zeros((*ids.shape, 3), np.uint8), max(alpha, 0.8)
    if isinstance(image, Image.Image) and image.mode[0] not in "IF":  # Pillow cuts those off at 255
        image = image.convert("RGB")
    image = np.asarray(image)
    image = image.astype(image.dtype.newbyteorder("="), copy=False)
    image = image[..., None] if image.ndim == 2 else image
    if image.ndim == 3 and image.shape[2] != 3:
        image = image[..., :3] if image.shape[2] > 3 else np.repeat(image[..., :1], 3, 2)
    if image.dtype == np.uint16:
        image = (stretch(image, InputConfig().percentiles) * 255 + 0.5).astype(np.uint8)
    if image.shape != (*ids.shape, 3):
        raise ConfigError(f"an image of shape {image.shape} does not fit an id map of {ids.shape}")
    if image.dtype.kind not in "iub":
        raise ConfigError(f"draws on uint8 or uint16 images, not on {image.dtype} values")
    if image.dtype == bool:
        image = image * np.uint8(255)
    if image.dtype != np.uint8 and image.size:
        low, high = image.min(), image.max()
        if low < 0 or high > 255:
            raise ConfigError(f"draws on uint8 or uint16 images, not on {image.dtype} values {low} to {high}")
    if not 0 <= alpha <= 1:
        raise ConfigError(f"alpha must be from 0 to 1, got {alpha}")
    colors = segment_colors(segments, categories, by_id=by_id)
    index = lookup(ids, [s.id for s in segments], np.arange(1, len(segments) + 1), 0)

    # image · (256 - a) + colour · a in whole numbers; row 0 of the tables is void, which stays as it is.
    strength = np.full(len(segments) + 1, round(alpha * 256), np.uint16)
    strength[0] = 0
    fill = np.concatenate([np.zeros((1, 3), np.uint16), colors.astype(np.uint16)]) * strength[:, None]
    keep = (256 - strength).take(index, mode="clip")
    canvas = np.empty(image.shape, np.uint8)
    for channel in range(3):  # one at a time: three times as fast as rows of three values
        drawn = image[..., channel] * keep
        drawn += fill[:, channel].take(index, mode="clip")
        np.right_shift(drawn, 8, out=canvas[..., channel], casting="unsafe")
    if borders and segments:
        lines = _borders(index, segments)
        canvas[lines] = _lightened(colors)[index[lines] - 1]
    drawing = Image.fromarray(canvas)
    if labels is None:
        labels = len(categories) > 2
    if (labels or scores) and segments:
        _write_names(drawing, ids, segments, colors, labels, scores)
    return drawing


def side_by_side(left: Image.Image, right: Image.Image, height: int | None = None) -> Image.Image:
    """Two drawings of one image next to each other, RGB.

    Args:
        left, right: of one size.
        height: of the result in pixels, with the widths to match; their own if left out.
    """
    pair = [one.convert("RGB") for one in (left, right)]
    if height is not None:
        width = max(round(height * left.width / left.height), 1)
        pair = [one.resize((width, height)) for one in pair]
    return Image.fromarray(np.concatenate([np.asarray(one) for one in pair], 1))


def segment_colors(
    segments: list[Segment], categories: Categories, *, by_id: bool = False
) -> NDArray[np.uint8]:
    """The RGB of every segment: stuff has its category's colour, things have colours near their category's.

    Things step through hue, brightness and saturation by the golden ratio, so that neighbours in the list
    differ. The fewer thing classes there are, the wider their hues may wander.

    Args:
        segments: a row each.
        categories: the label set.
        by_id: the steps are those of the ids, not of the list.

    Returns:
        (S, 3) uint8.
    """
    things = max(int(categories.is_thing.sum()), 1)
    spread = max(0.9 / things, 0.1)
    seen = dict.fromkeys(range(len(categories)), 0)
    colors = np.zeros((len(segments), 3), np.uint8)
    for row, segment in enumerate(segments):
        color = categories[segment.label].color
        step = segment.id if by_id else seen[segment.label]
        seen[segment.label] += 1
        if not segment.is_thing or (step == 0 and things > 1):
            colors[row] = color
            continue
        hue, saturation, value = colorsys.rgb_to_hsv(*(v / 255 for v in color))
        hue += spread * ((step * GOLDEN + 0.5) % 1 - 0.5)
        saturation = min(max(saturation, 0.45) * (0.75 + 0.4 * (step * GOLDEN**2 % 1)), 1.0)
        value = min(max(value, 0.7) * (0.8 + 0.35 * (step * GOLDEN**3 % 1)), 1.0)
        colors[row] = [round(255 * v) for v in colorsys.hsv_to_rgb(hue % 1, saturation, value)]
    return colors


def _lightened(colors: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return (colors.astype(np.uint16) * 3 // 5 + 102).astype(np.uint8)


def _borders(index: NDArray[np.int32], segments: list[Segment]) -> NDArray[np.bool_]:
    """Pixels of segments that touch something else; stuff beside a thing leaves the line to the thing.

    Lines are thicker in large images, but thin in small segments.
    """
    thickest = max(round(max(index.shape) / 700), 1)
    extents = np.array([min(s.bbox[2:]) for s in segments])
    thickness = np.minimum(np.append(0, extents // 14 + 1), thickest).astype(np.uint8).take(index)
    thing = np.array([False, *(s.is_thing for s in segments)]).take(index)
    lines = np.zeros(index.shape, bool)
    for step in range(1, thickest + 1):
        wide = thickness >= step
        for axis in (0, 1):
            near = (slice(None),) * axis + (slice(None, -step),)
            far = (slice(None),) * axis + (slice(step, None),)
            differ = index[near] != index[far]
            lines[near] |= differ & wide[near] & (thing[near] | ~thing[far])
            lines[far] |= differ & wide[far] & (thing[far] | ~thing[near])
    return lines


def _write_names(
    drawing: Image.Image,
    ids: NDArray[np.int32],
    segments: list[Segment],
    colors: NDArray[np.uint8],
    labels: bool,
    scores: bool,
) -> None:
    """Write each name where a box of its size lies inside the segment; leave it out where none does."""
    largest = min(max(max(ids.shape) // 45, FONT_SIZES[0]), FONT_SIZES[1])
    from PIL import ImageDraw, ImageFont  # only when used: a prediction draws nothing

    fonts = [ImageFont.load_default(size) for size in sorted({largest, FONT_SIZES[0]}, reverse=True)]
    pen = ImageDraw.Draw(drawing)
    points_of = _roomy_points(ids, segments)
    for row, segment in enumerate(segments):
        words = [segment.category] * labels + [f"{segment.score:.0%}"] * scores
        for font in fonts:
            left, top, right, bottom = map(round, pen.textbbox((0, 0), text := " ".join(words), font=font))
            pad = (bottom - top) // 4 + 1
            width, height = right - left + 2 * pad, bottom - top + 2 * pad
            if width > segment.bbox[2] or height > segment.bbox[3]:
                continue
            corner = _place(ids, segment.id, points_of(row), width, height)
            if corner is None:
                continue
            x, y = corner
            color = tuple((colors[row].astype(int) * 2 // 5).tolist())
            pen.rounded_rectangle((x, y, x + width - 1, y + height - 1), radius=pad, fill=color)
            pen.text((x + pad - left, y + pad - top), text, font=font, fill=(255, 255, 255))
            break


def _roomy_points(ids: NDArray[np.int32], segments: list[Segment]) -> Callable[[int], NDArray[np.int64]]:
    """A function from a segment's row to (y, x) of points with room around them, the best first.

    They are the centres of its widest horizontal runs, those near its top or bottom counting as narrow.
    """
    runs = Runs.of(ids)
    segment = lookup(runs.ids, [s.id for s in segments], np.arange(len(segments)), -1)
    boxes = np.array([s.bbox for s in segments])
    top, below = boxes[segment, 1], boxes[segment, 1] + boxes[segment, 3] - 1
    room = np.minimum(runs.length, 5 * np.minimum(runs.y - top, below - runs.y) + 1)
    order = np.lexsort((-room, segment))
    start = np.searchsorted(segment[order], np.arange(len(segments) + 1))

    def of(row: int) -> NDArray[np.int64]:
        mine = order[start[row] : start[row + 1]]
        mine = mine[: max(len(mine) // 2, 1)][:: max(len(mine) // 16, 1)]
        return np.stack([runs.y[mine], runs.x[mine] + runs.length[mine] // 2], 1)

    return of


def _place(
    ids: NDArray[np.int32], number: int, points: NDArray[np.int64], width: int, height: int
) -> tuple[int, int] | None:
    """The first (x, y) of a box around one of the points of which nine tenths lie in the segment."""
    rows, columns = ids.shape
    for y, x in points.tolist():
        y, x = min(max(y - height // 2, 0), rows - height), min(max(x - width // 2, 0), columns - width)
        if (ids[y : y + height, x : x + width] == number).mean() >= 0.9:
            return x, y
    return None
