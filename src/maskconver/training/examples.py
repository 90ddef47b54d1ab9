"""Training examples drawn as the network sees them, with what it has to learn (MaskConver, Figure 2)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ..core.categories import Categories
from ..core.config import InputConfig
from ..core.resize import resize_nearest
from ..core.segmentation import Segmentation
from ..models.base import SegmentationModel
from ..models.batch import Batch
from ..models.registry import build_model
from .config import TrainConfig
from .loader import SegmentationData

SIDE = 420  # pixels of the longer side of a panel
THING, STUFF = (230, 60, 30), (40, 110, 230)
GAP, LINE = 8, 18  # pixels between panels, and of a line of text
TITLES = "what the network sees", "masks and centres to learn", "heatmaps of centres to learn"


def draw_examples(config: TrainConfig, count: int) -> Image.Image:
    """The first examples of a training as one image, a row each.

    Args:
        config: the recipe; nothing of it is changed, and no validation data is needed.
        count: rows, 1 or more.

    Raises:
        DataError, ConfigError: as in training.
    """
    given = config.data
    data_config = replace(given, workers=0, batch_size=1, val_split=given.train_split, val=given.train)
    network = config.model.config
    data = SegmentationData(data_config, network.input, count, seed=config.seed, overfit=config.overfit)
    with torch.device("meta"):  # only its levels are asked for
        model = build_model(network, len(data.categories), data.categories, name=config.model.name)
        targets = config.data.targets
        criterion = model.family.criterion(
            model, config.loss, min_iou=targets.min_iou, gaussian=targets.gaussian
        )
    rows = []
    for batch in data.train_dataloader():
        rows += _rows(criterion, model, batch, 1)
    return _sheet(rows, TITLES)


def draw_batch(criterion: Any, model: SegmentationModel, batch: Batch, *, rows: int) -> Image.Image:
    """The first images of a batch as one image, a row each.

    Args:
        criterion: the loss of the training.
        model: of which only levels and categories are asked for.
        batch: on the CPU.
        rows: images at most.
    """
    return _sheet(_rows(criterion, model, batch, rows), TITLES)


def _rows(
    criterion: Any, model: SegmentationModel, batch: Batch, count: int
) -> list[tuple[list[Image.Image], str]]:
    """The panels of the first images of a batch, and the line below each."""
    heatmaps = criterion.heatmaps(model, batch) if hasattr(criterion, "heatmaps") else ()
    assert model.categories is not None
    return [
        _row(
            batch, i, [h[i].numpy() for h in heatmaps], config=model.config.input, categories=model.categories
        )
        for i in range(min(count, len(batch)))
    ]


def _row(
    batch: Batch,
    index: int,
    heatmaps: list[NDArray[np.float32]],
    *,
    config: InputConfig,
    categories: Categories,
) -> tuple[list[Image.Image], str]:
    image = shown_image(batch.images[index].numpy(), config)
    valid = batch.valid[index].numpy()
    mine = batch.batch == index
    panels = [Image.fromarray(image), _masks(batch, index, image, categories)]
    if heatmaps:
        panels.append(Image.fromarray(_heat(heatmaps, image, categories)))
    labels = batch.labels[mine].numpy()
    things = int(categories.is_thing[labels].sum())
    text = (
        f"image {batch.image_ids[index]}; centres: {things} of things, {len(labels) - things} of stuff; "
        f"{1 - valid.mean():.0%} of the pixels do not count"
    )
    if dropped := int((~batch.keep[mine]).sum()):
        text += f"; {dropped} masks beyond data.targets.max_segments"
    return panels, text


def shown_image(image: NDArray[np.float32], config: InputConfig) -> NDArray[np.uint8]:
    """A normalised image C×H×W as H×W×3 uint8; its first three channels, or grey."""
    mean, std = (np.array(v, np.float32)[:, None, None] for v in (config.mean, config.std))
    values = (image * std + mean).clip(0, 1)
    values = values[:3] if len(values) >= 3 else np.repeat(values[:1], 3, 0)
    return (values.transpose(1, 2, 0) * 255 + 0.5).astype(np.uint8)


def _masks(batch: Batch, index: int, image: NDArray[np.uint8], categories: Categories) -> Image.Image:
    mine, regions = batch.batch == index, batch.regions[index].numpy()
    region, labels = batch.region[mine].numpy(), batch.labels[mine].numpy()
    numbers, first = np.unique(region, return_index=True)
    ids = np.where(np.isin(regions, numbers), regions, 0).astype(np.int32)
    found = Segmentation.from_ids(ids, categories, labels=labels[first], segment_ids=numbers)
    found = replace(found, segments=[s for s in found.segments if s.area])
    drawn = np.asarray(found.draw(image)).copy()
    y, x = np.arange(ids.shape[0])[:, None], np.arange(ids.shape[1])
    drawn[~batch.valid[index].numpy() & ((x + y) // max(max(ids.shape) // 100, 1) % 3 == 0)] = 0
    result = Image.fromarray(drawn)
    pen, reach = ImageDraw.Draw(result), max(max(ids.shape) // 70, 2)
    for (cy, cx), label in zip(batch.centers[mine].tolist(), labels.tolist()):
        color = THING if categories.is_thing[label] else STUFF
        for width, fill in ((reach // 2 + 2, (255, 255, 255)), (max(reach // 3, 1), color)):
            pen.line((cx - reach, cy, cx + reach, cy), fill, width)
            pen.line((cx, cy - reach, cx, cy + reach), fill, width)
    return result


def _heat(
    levels: list[NDArray[np.float32]], image: NDArray[np.uint8], categories: Categories
) -> NDArray[np.uint8]:
    """The largest target of things, and of stuff, at every pixel, over a faint image."""
    height, width = image.shape[:2]
    drawn = image * np.float32(0.35)
    for chosen, color in ((~categories.is_thing, STUFF), (categories.is_thing, THING)):
        if chosen.any():
            heats = [resize_nearest(level[chosen].max(0), (height, width)) for level in levels]
            heat = np.max(heats, 0)[..., None]
            drawn = drawn * (1 - heat) + np.array(color, np.float32) * heat
    return (drawn + 0.5).astype(np.uint8)


def _sheet(rows: list[tuple[list[Image.Image], str]], titles: tuple[str, ...]) -> Image.Image:
    font = ImageFont.load_default(13)
    scaled = []
    for panels, text in rows:
        factor = SIDE / max(panels[0].size)
        size = tuple(max(round(n * factor), 1) for n in panels[0].size)
        way = Image.Resampling.NEAREST if factor > 1 else Image.Resampling.BOX
        scaled.append(([panel.resize(size, way) for panel in panels], text))  # type: ignore[arg-type]
    columns = len(scaled[0][0])
    width = max(p[0].width for p, _ in scaled)
    heights = [p[0].height + LINE + GAP for p, _ in scaled]
    sheet = Image.new("RGB", (columns * (width + GAP) + GAP, sum(heights) + LINE + GAP), "white")
    pen, top = ImageDraw.Draw(sheet), LINE + GAP
    for column, title in enumerate(titles[:columns]):
        pen.text((GAP + column * (width + GAP), 4), title, "black", font)
    for (panels, text), height in zip(scaled, heights):
        for column, panel in enumerate(panels):
            sheet.paste(panel, (GAP + column * (width + GAP), top))
        pen.text((GAP, top + panels[0].height + 1), text, "black", font)
        top += height
    return sheet
