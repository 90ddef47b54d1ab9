"""Images larger than a network's input, segmented tile by tile."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from math import ceil
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ..core.config import InputConfig, PostprocessConfig
from ..core.preprocess import prepare, scaled_size, stretch_levels
from ..core.proposals import Geometry, Proposals
from ..core.segmentation import Segmentation
from ..errors import ConfigError
from ..io.pixels import ImageWarning, kept_warnings
from ..merge import Algorithm, NonFinite, postprocess
from .inputs import as_image
from .mosaic import Mosaic, Tile, Tiling, Window
from .runtime import Runtime, run
from .stream import look_ahead, timed

if TYPE_CHECKING:
    from .exported import CanvasMap, ClassScores

AUTO_SIDE = 1024  # of the network's input, by default
LEAST_TILE = 32  # pixels of an image that a tile shows at least, by default
WINDOWED = 1 << 24  # pixels from which a TIFF is read window by window
SAMPLED = 1 << 24  # pixels of such a file that the stretch is measured on


class Settings(Protocol):
    """What `segment_tiles` reads of a `Predictor`."""

    runtime: Runtime
    tiles: Tiles | None
    postprocess: PostprocessConfig
    algorithm: Algorithm
    non_finite: NonFinite
    batch_size: int
    white_level: float | None
    skip_empty: bool
    on_tile: Callable[[int, int], None]


class Source(Protocol):
    """An image of which windows can be read; `shape` begins with height and width."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def read(self, window: Window) -> NDArray[Any]: ...


@dataclass(frozen=True, slots=True)
class InMemory:
    """An image that is decoded already, H×W×C in the channels and bits that the model takes."""

    pixels: NDArray[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the pixels."""
        return self.pixels.shape

    def read(self, window: Window) -> NDArray[Any]:
        """A view."""
        return self.pixels[window]


@dataclass(slots=True)
class Large:
    """An image that is segmented in tiles; `keep` says whether its pixels are wanted in the answer."""

    source: Source
    tiling: Tiling
    name: str
    keep: bool

    def close(self) -> None:
        """Closes the file, if it is read by windows."""
        if (close := getattr(self.source, "close", None)) is not None:
            close()


@dataclass(frozen=True, slots=True)
class Tiles:
    """How a model sees tiles.

    Attributes:
        tile: side in pixels of the image, at most.
        overlap: pixels that neighbours share.
        align: tiles begin at multiples of this.
        input: of mode `native`, so that each tile is resized by the same factor.
        canvas: (height, width) of the network's input, at most.
        fixed: whether it is always that large.
        side: pixels of the image whose square the model's smallest areas are shares of.
        auto: nobody asked for tiles.
    """

    tile: int
    overlap: int
    align: int
    input: InputConfig
    canvas: tuple[int, int]
    fixed: bool
    side: float
    auto: bool

    def over(self, size: tuple[int, ...]) -> Tiling | None:
        """The tiling of an image; None for one that fits a tile."""
        if max(size[:2]) <= self.tile:
            return None
        shape = size[0], size[1]
        return Tiling.of(shape, self.tile, self.overlap, align=self.align, even=not self.fixed)

    def canvas_for(self, tiling: Tiling) -> tuple[int, int]:
        """The network's input for the tiles of an image: no more of it than they need."""
        if self.fixed:
            return self.canvas
        size = scaled_size((tiling.rows[0][1], tiling.columns[0][1]), self.input)  # no window is larger
        step, sides = self.input.multiple, zip(self.canvas, size)
        height, width = (min(most, -(-side // step) * step) for most, side in sides)
        return height, width

    def config(self, config: PostprocessConfig, size: tuple[int, int]) -> PostprocessConfig:
        """The thresholds for a window: the same number of pixels in each."""
        share = (self.side / max(size)) ** 2
        stuff = None if config.stuff_min_area is None else min(config.stuff_min_area * share, 1.0)
        return replace(config, min_area=min(config.min_area * share, 1.0), stuff_min_area=stuff)


def tiles_of(
    runtime: Runtime, tile: int | Literal["auto"] | None, overlap: int | None, *, auto: bool = True
) -> Tiles | None:
    """The tiles for a model; None where images are not cut.

    Args:
        runtime: of the model.
        tile, overlap: as of `Predictor`.
        auto: whether `tile="auto"` may cut images.

    Raises:
        ConfigError: tiles that this model cannot take.
    """
    config, file = runtime.input, getattr(runtime, "file", None)
    fixed = config.size if config.mode == "fit" else getattr(file, "size", None)
    given = tile != "auto"
    if tile is None or (tile == "auto" and (config.mode == "fit" or not auto)):
        if overlap is not None:
            raise ConfigError("`overlap` applies to tiles; also give `tile`, a side in pixels")
        return None
    multiple = getattr(file, "multiple", config.multiple)
    if isinstance(tile, str):
        if tile != "auto":
            raise ConfigError(f'tile "{tile}" is not available; there are auto, none and a side in pixels')
        least = min(fixed) if fixed else max(AUTO_SIDE, *config.size)
        tile = int(least / config.scale)
        if tile < LEAST_TILE:
            raise ConfigError(
                f"at a scale of {config.scale:g}, a tile shows {tile} pixels of an image; give a smaller "
                "`scale`, a larger `diameter`, or a `tile`"
            )
    if tile < 1:
        raise ConfigError(f"`tile={tile}` is not a side in pixels")
    scale = min(fixed) / tile if fixed and config.mode == "fit" else config.scale
    if fixed and round(tile * scale) > min(fixed):
        raise ConfigError(
            f"`tile={tile}` at a scale of {scale:g} is larger than the file's input, {fixed[0]}×{fixed[1]}; "
            f"take at most {int(min(fixed) / scale)}"
        )
    aligned = multiple / scale
    align = round(aligned) if abs(round(aligned) - aligned) < 1e-6 and round(aligned) <= tile // 4 else 1
    if tile * min(scale, 1.0) < multiple:
        raise ConfigError(
            f"`tile={tile}` is smaller than the network's multiple, {multiple / min(scale, 1):g} pixels"
        )
    shared = tile // 4 if overlap is None else overlap
    side = max(config.size) / scale
    canvas = fixed or (-(-ceil(tile * scale) // multiple) * multiple,) * 2
    own = replace(config, mode="native", scale=scale, multiple=multiple)
    tiles = Tiles(tile, shared, align, own, (canvas[0], canvas[1]), bool(fixed), side, auto=not given)
    Tiling.of((tile + 1, tile + 1), tile, shared, align=align)  # refuses overlaps before the first image
    return tiles


def segment_tiles(predictor: Settings, large: Large, seconds: dict[str, float]) -> Segmentation:
    """One image tile by tile, the next ones being read while the network runs.

    Args:
        predictor: has tiles.
        large: the image.
        seconds: gets the time of each stage added.

    Raises:
        ImageError: a part of the file cannot be read.
        MaskconverError: the network returned NaN or infinite values, or there is no room for the id map.
    """
    tiles, source, tiling = predictor.tiles, large.source, large.tiling
    assert tiles is not None
    runtime, batch = predictor.runtime, predictor.batch_size
    dtype = getattr(runtime, "dtype", np.float32)

    def pixels(window: Window) -> NDArray[Any]:
        values = source.read(window)
        if isinstance(source, InMemory):  # read as the model takes it
            return values
        own = tiles.input
        return as_image(values, white_level=predictor.white_level, channels=own.channels, bits=own.bits)[0]

    levels = None
    if tiles.input.stretch == "percentile":
        with timed(seconds, "decode"), kept_warnings() as notes:
            levels = stretch_levels(_sample(source, pixels), tiles.input)
        for note in notes[:1]:
            warnings.warn(ImageWarning(note.what, where=large.name, fix=note.fix), stacklevel=5)

    dark: list[ImageWarning | None] = []
    canvas = tiles.canvas_for(tiling)

    def work(tile: Tile) -> tuple[tuple[NDArray[Any], Geometry] | None, dict[str, float]]:
        spent: dict[str, float] = {}
        with kept_warnings() as notes, timed(spent, "decode"):
            part = pixels(tile.window)
        dark.append(notes[0] if notes else None)
        if predictor.skip_empty and (part == part[:1, :1]).all():
            return None, spent
        with timed(spent, "prepare"):
            return prepare(part, tiles.input, dtype=dtype, canvas=canvas, levels=levels), spent

    mosaic, done = Mosaic(tiling.size, tiling.overlap, predictor.runtime.categories), 0
    with closing(look_ahead(work, tiling, batch)) as coming:
        while begun := list(islice(coming, batch)):
            with timed(seconds, "waiting"):
                ready = [(tile, *future.result()) for tile, future in begun]
            for _, _, spent in ready:
                for stage, value in spent.items():
                    seconds[stage] = seconds.get(stage, 0.0) + value
            kept = [(tile, *one) for tile, one, _ in ready if one is not None]
            if kept:
                with timed(seconds, "network"):
                    images = np.stack([canvas for _, canvas, _ in kept])
                    found = run(runtime, images, predictor.postprocess.score_threshold)
                for i, (tile, _, geometry) in enumerate(kept):
                    with timed(seconds, "postprocess"):
                        answer = _segmentation(predictor, found, i, geometry)
                    with timed(seconds, "join"):
                        mosaic.add(answer, tile)
            done += len(begun)
            predictor.on_tile(done, len(tiling))
    if levels is None and (found_dark := [note for note in dark if note]) and len(found_dark) == len(dark):
        note = max(found_dark, key=lambda n: (len(n.what), n.what))  # that of the largest value
        warnings.warn(ImageWarning(note.what, where=large.name, fix=note.fix), stacklevel=5)
    with timed(seconds, "join"):
        return mosaic.segmentation()


def _segmentation(
    predictor: Settings, found: Proposals | list[CanvasMap | ClassScores], i: int, geometry: Geometry
) -> Segmentation:
    """That of one tile of a batch."""
    tiles = predictor.tiles
    assert tiles is not None
    if not isinstance(found, Proposals):
        return found[i].segmentation(geometry, tiles.input, predictor.runtime.categories)
    own = slice(i, i + 1)
    logits = None if found.class_logits is None else found.class_logits[own]
    one = Proposals(found.scores[own], found.labels[own], found.mask_logits[own], logits, (geometry,))
    return postprocess(
        one,
        tiles.config(predictor.postprocess, geometry.image_size),
        predictor.runtime.categories,
        algorithm=predictor.algorithm,
        non_finite=predictor.non_finite,
    )[0]


def _sample(source: Source, read: Callable[[Window], NDArray[Any]]) -> NDArray[Any]:
    """All of an image, or of one that is read by windows some rows of evenly spread squares."""
    height, width = source.shape[:2]
    if isinstance(source, InMemory):
        return source.pixels
    side = 512
    across, down = (max(n // side, 1) for n in (width, height))
    step = max(ceil(across * down / (SAMPLED / side**2)), 1)
    parts = []
    for k in range(0, across * down, step):
        y, x = k // across * side, k % across * side
        part = read((slice(y, min(y + side, height)), slice(x, min(x + side, width))))
        parts.append(part.reshape(-1, part.shape[2]))
    return np.concatenate(parts)[None]
