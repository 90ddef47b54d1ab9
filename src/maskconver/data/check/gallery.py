"""A sheet of defects: for each a thumbnail of the image with the segment marked, and what is wrong."""

from __future__ import annotations

import os
import textwrap
from collections import defaultdict
from itertools import chain, zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ...core.files import atomic_path
from ...core.preprocess import stretch
from ...errors import ConfigError, MaskconverError
from ...io.images import image_form, read_image
from ...io.panoptic_json import read_panoptic_png
from ...io.panoptic_rows import Defect
from .report import Report, SplitReport

TILE, COLUMNS, MARGIN, LINES = 300, 4, 8, 4
TEXT = 15  # pixels of a line
COLORS = {"error": (196, 30, 58), "warning": (190, 120, 0), "note": (20, 110, 160)}
MARK = (255, 230, 0)


def write_gallery(path: str | os.PathLike[str], report: Report, count: int = 24) -> int:
    """Draw examples of the defects and notes that are about one image.

    Args:
        path: the sheet, `.png` or `.jpg`.
        report: of a check.
        count: how many at most; kinds take turns.

    Returns:
        How many were drawn; without any no file is written.

    Raises:
        ConfigError: another ending.
        OSError: the file cannot be written.
    """
    if not os.fspath(path).lower().endswith((".png", ".jpg", ".jpeg")):
        raise ConfigError(f"{path} must end in .png or .jpg")
    by_kind: defaultdict[str, list[tuple[SplitReport, Defect]]] = defaultdict(list)
    for split in report.splits:
        for defect in [*split.defects, *split.notes]:
            if defect.image_id is not None:
                by_kind[defect.kind].append((split, defect))
    turns = chain.from_iterable(zip_longest(*(_spread(found, count) for found in by_kind.values())))
    chosen = [one for one in turns if one is not None][:count]
    if not chosen:
        return 0
    tiles = [_tile(split, defect) for split, defect in chosen]
    columns = min(COLUMNS, len(tiles))
    width, height = TILE + MARGIN, TILE + LINES * TEXT + MARGIN
    sheet = Image.new("RGB", (columns * width + MARGIN, -(-len(tiles) // columns) * height + MARGIN), "white")
    for k, tile in enumerate(tiles):
        sheet.paste(tile, (MARGIN + k % columns * width, MARGIN + k // columns * height))
    with atomic_path(path) as temporary:
        sheet.save(temporary)
    return len(tiles)


def _spread(found: list[Any], count: int) -> list[Any]:
    return [found[i * len(found) // count] for i in range(count)] if len(found) > count else found


def _tile(split: SplitReport, defect: Defect) -> Image.Image:
    tile = Image.new("RGB", (TILE, TILE + LINES * TEXT), "white")
    draw = ImageDraw.Draw(tile)
    thumbnails = [_thumbnail(split, defect)]
    if defect.kind == "near-duplicate" and defect.image_id in split.twins:
        other, image_id = split.twins[defect.image_id]
        thumbnails.append(_thumbnail(other, Defect("", "", "", image_id=image_id)))
    side = TILE // len(thumbnails)
    for k, image in enumerate(thumbnails):
        image.thumbnail((side - 2 * (len(thumbnails) > 1), TILE))
        if max(image.size) < side:  # tiny images are enlarged so that single pixels are seen
            scale = side // max(image.size) or 1
            image = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
        tile.paste(image, (k * side + (side - image.width) // 2, (TILE - image.height) // 2))
    font: Any = ImageFont.load_default(12)
    title = f"{defect.kind} · {split.split}" if split.split else defect.kind
    draw.text((0, TILE + 1), title, COLORS.get(defect.severity, MARK), font=font)
    lines = textwrap.wrap(defect.message, 50, max_lines=LINES - 1, placeholder=" …", break_on_hyphens=False)
    draw.multiline_text((0, TILE + 1 + TEXT), "\n".join(lines), "black", font=font, spacing=2)
    return tile


def _thumbnail(split: SplitReport, defect: Defect) -> Image.Image:
    """The image with the segment marked; grey with words where it cannot be read."""
    place = split.locate(defect.image_id)
    if place is None:
        return _words("no file")
    try:
        data, where = place.images.read(place.image), place.images.where(place.image)
        channels, bits = image_form(data, name=where)
        wanted = channels if channels > 3 else 3
        pixels = read_image(data, name=where, channels=wanted, bits=16 if bits > 8 else 8)
    except MaskconverError as error:
        return _words(error.what)
    pixels = pixels[..., :3]
    shown = (255 * stretch(pixels, (0.5, 99.8))).astype(np.uint8) if bits > 8 else pixels
    image = Image.fromarray(np.ascontiguousarray(shown))
    scale = max(max(image.size) / TILE, 1e-9)
    if defect.segment_id is not None and place.pngs is not None:
        try:
            ids = read_panoptic_png(place.pngs.read(place.png), place.png)
        except MaskconverError:
            return image
        _mark(image, ids == defect.segment_id, scale)
    return image


def _mark(image: Image.Image, mask: NDArray[np.bool_], scale: float) -> None:
    """A yellow frame around a segment, wide enough to be seen in the tile."""
    if not mask.any() or mask.shape != image.size[::-1]:
        return
    y, x = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    line = max(round(2 * scale), 1)
    gap = max(round(4 * scale), 2)
    box = x[0] - gap, y[0] - gap, x[-1] + gap, y[-1] + gap
    inside = max(box[0], 0), max(box[1], 0), min(box[2], image.width - 1), min(box[3], image.height - 1)
    ImageDraw.Draw(image).rectangle([int(v) for v in inside], outline=MARK, width=line)


def _words(text: str) -> Image.Image:
    image = Image.new("RGB", (TILE, TILE), (225, 225, 225))
    font: Any = ImageFont.load_default(14)
    lines = "\n".join(textwrap.wrap(text, 36, max_lines=6, placeholder=" …"))
    ImageDraw.Draw(image).multiline_text((14, TILE // 2 - 30), lines, (90, 90, 90), font=font)
    return image
