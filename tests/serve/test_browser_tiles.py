"""Images in tiles: the page's own joining gives Python's results; run by node."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from maskconver.core.categories import Categories, Category
from maskconver.core.config import InputConfig, PostprocessConfig
from maskconver.core.proposals import Proposals
from maskconver.inference.predictor import Predictor
from tests.node import NODE, call_all

pytestmark = pytest.mark.skipif(NODE is None, reason="node is not installed")
CATEGORIES = Categories(
    [
        Category(3, "cell", True, (220, 60, 60)),
        Category(4, "other cell", True, (60, 60, 220)),
        Category(5, "road", False, (40, 40, 40)),
        Category(8, "ground", False, (40, 90, 40)),
    ]
)


class Uncertain:
    """Sees a blob in each colour of an image, at every look a little else, and some not at all."""

    def __init__(self, seed: int, **options: Any) -> None:
        own: dict[str, Any] = {"mode": "native", "size": (64, 64), "multiple": 16}
        self.input = InputConfig(**(own | options))
        self.categories = CATEGORIES
        self.seen: list[Proposals] = []
        self.postprocess = PostprocessConfig(min_area=1e-3, overlap_threshold=0.3, score_threshold=0.3)
        self.rng = np.random.default_rng(seed)

    def __call__(self, images: np.ndarray) -> Proposals:
        found = []
        for image in images:
            mean, std = (np.array(v)[:, None, None] for v in (self.input.mean, self.input.std))
            red = np.rint((image * std + mean) * 255).astype(int)[0, 1::4, 1::4]
            kinds = [k for k in np.unique(red)[:30] if k and self.rng.random() < 0.9] or [0]
            masks = np.stack([np.where(red == k, 4, -4) for k in kinds]).astype(np.float32)
            masks += self.rng.normal(0, 2.5, masks.shape).astype(np.float32)
            scores = np.sort(self.rng.uniform(0.2, 1, len(kinds)).astype(np.float32))[::-1]
            labels = np.array([int(k) % 4 if self.rng.random() < 0.9 else 0 for k in kinds])
            found.append(Proposals(scores[None], labels[None], masks[None]))
        self.seen += found
        assert len(found) == 1
        return found[0]


def discs(seed: int, height: int, width: int) -> np.ndarray:
    """Up to 30 discs, some of them larger than a tile, on one ground."""
    rng = np.random.default_rng(seed)
    image = np.full((height, width, 3), 3, np.uint8)
    y, x = np.mgrid[:height, :width]
    for number in range(4, 30):
        radius = rng.integers(3, 60 if number < 7 else 16)
        image[(y - rng.integers(height)) ** 2 + (x - rng.integers(width)) ** 2 < radius**2, 0] = number
    return image


@pytest.mark.parametrize(
    ("size", "options"),
    [
        ((150, 170), {"tile": 64}),
        ((150, 67), {"tile": 64, "overlap": 32}),
        ((40, 200), {"tile": 64, "overlap": 0}),
        ((131, 90), {"tile": 50, "overlap": 20}),
        ((201, 222), {"tile": 96}),
    ],
)
@pytest.mark.parametrize("seed", range(4))
def test_joining_tiles_is_pythons(size: tuple[int, int], options: dict[str, Any], seed: int) -> None:
    runtime = Uncertain(seed, scale=2.0 if seed == 1 else 1.0)
    predictor = Predictor(runtime, batch_size=1, **options)
    own = predictor(discs(seed, *size))
    tiles = predictor.tiles
    assert tiles is not None
    tiling = tiles.over(size)
    assert tiling is not None and len(tiling) == len(runtime.seen)
    given = []
    for tile, one in zip(tiling, runtime.seen):
        image = [part.stop - part.start for part in tile.window]
        scale = [round(n * tiles.input.scale) / n for n in image]
        geometry = {"image": image, "canvas": tiles.canvas_for(tiling), "scale": scale}
        masks = one.mask_logits[0]
        given.append({"scores": one.scores[0], "labels": one.labels[0], "masks": masks.ravel()})
        given[-1] |= {"maskSize": masks.shape[1:], "geometry": geometry}
    about = {key: getattr(tiles, key) for key in ("tile", "overlap", "align", "side", "fixed")}
    things = [bool(thing) for thing in CATEGORIES.is_thing]
    case = [size, about, given, asdict(predictor.postprocess), things]
    (found,) = call_all("mosaic.js", "joined", [case])
    answer = found["answer"]
    assert len(own) > 5
    assert np.count_nonzero(answer["ids"].reshape(size) != own.ids) == 0
    assert answer["labels"] == [s.label for s in own]
    np.testing.assert_allclose(answer["scores"], [s.score for s in own], rtol=1e-6)


@pytest.mark.parametrize("size", [(520, 696), (40, 1100), (1024, 1024), (513, 2000)])
@pytest.mark.parametrize("scale", [1.0, 2.0, 1.5])
def test_the_tiles_and_the_networks_input_are_pythons(size: tuple[int, int], scale: float) -> None:
    tiles = Predictor(Uncertain(0, scale=scale), tile=512).tiles
    tiling = tiles.over(size) if tiles is not None else None
    assert tiles is not None and tiling is not None
    named = ("tile", "overlap", "align", "canvas", "fixed", "side")
    about = {key: getattr(tiles, key) for key in named} | {"multiple": tiles.input.multiple}
    (found,) = call_all("mosaic.js", "tilesOf", [[size, about]])
    own = [[part.start for part in tile.window] + [part.stop for part in tile.core] for tile in tiling]
    answer = found["answer"]
    assert [
        [one["window"]["top"], one["window"]["left"], one["core"]["bottom"], one["core"]["right"]]
        for one in answer
    ] == own
    (canvas,) = call_all("mosaic.js", "canvasFor", [[answer, about, asdict(tiles.input)]])
    assert tuple(canvas["answer"]) == tiles.canvas_for(tiling)
