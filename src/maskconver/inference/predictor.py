"""`Predictor`: an image in, a `Segmentation` out, whatever runs the network."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from copy import copy
from dataclasses import dataclass, fields, replace
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from ..core.categories import Categories
from ..core.config import OLD_NAMES, PostprocessConfig
from ..core.preprocess import prepare, resize_bilinear, scaled_size, white_of
from ..core.proposals import Geometry, Proposals, without_non_finite
from ..core.segmentation import Segmentation
from ..errors import ConfigError, ImageError, MaskconverError, one_line
from ..io.images import MAX_PIXELS, read_reduced
from ..io.pixels import ImageWarning, check_white_level, kept_warnings
from ..io.windows import TiffWindows, open_windows
from ..merge import RULES, Algorithm, NonFinite, Source, check_options, postprocess
from ..merge.instances import instances
from ..merge.semantic import semantic_maps
from .inputs import as_image
from .runtime import Runtime as Runtime
from .runtime import has_postprocessing, open_runtime, run
from .stream import look_ahead, timed
from .tiles import WINDOWED, InMemory, Large, segment_tiles, tiles_of

if TYPE_CHECKING:
    from concurrent.futures import Future

    from torch import nn

    from .exported import CanvasMap, ClassScores

Item = TypeVar("Item")
NUMBERS = {"scale": "factor", "diameter": "number of pixels"}  # what messages call them


@dataclass(slots=True)
class _Ready:
    """An image as network input; `pixels` is None where it is not wanted or was only read reduced."""

    canvas: NDArray[Any]
    geometry: Geometry
    pixels: NDArray[Any] | None
    name: str


_Read = tuple[
    _Ready | Large | MaskconverError, list[ImageWarning], dict[str, float]
]  # with warnings and seconds of the stages


class Predictor:
    """Segments images with one model.

    Example:
        >>> import maskconver as mc
        >>> sample = mc.data.synthesize("cells", size=(128, 160), seed=7)
        >>> mc.Predictor("nuclei", score_threshold=0.3)(sample.image).ids.shape
        (128, 160)

    Args:
        model: a bundled name, a model file or a run's folder; a loaded `nn.Module`.
        device: where PyTorch runs; the fastest available if left out. A module stays where it is.
        proposals: number of masks per image; the model's own number if left out.
        batch_size: how many images of a list run together, if their network inputs have one size.
        max_pixels: larger files are refused.
        white_level: the value shown as white in images of more than 8 bits, e.g. 4095; the model's own if
            left out.
        draft_jpeg: read JPEG files at a half, a quarter or an eighth of their size where the network input
            needs no more. The result still has the size of the file, but differs a little, and its `image` is
            None for such files. See docs/decisions/draft-jpeg.md.
        algorithm: of the post-processing: `fast`, or `reference`, which is slower and gives the same result.
        non_finite: if the network returns NaN or infinite values: `error`, or `drop` those proposals.
        output_side: longer side of the result in pixels; the image's own size if left out. The side of the
            network's input is the fastest.
        tta: test-time flips: the network also sees each image mirrored, and its outputs are averaged before
            post-processing. Two to three times the time; for MaskConver models in PyTorch.
        semantic: results also get `Segmentation.semantic`, the class of every pixel from the scores of all
            masks; see `merge.semantic`.
        instances: results also get this many (mask, class) pairs as `Segmentation.instances`; see
            `merge.instances`.
        tile: larger images are segmented in overlapping tiles of at most this side in pixels, which are
            joined; a model of mode `fit` sees each tile as it would see an image. `auto` takes tiles of 1024
            pixels of the network's input (or of its training crop, if larger) for models of mode `native`,
            and none for others. None takes none. See docs/tasks/large.md.
        overlap: number of pixels that tiles share; objects smaller than this are never cut. A quarter of the
            tile if left out.
        skip_empty: tiles of a single colour are void without asking the network.
        scale: for models of mode `native`: images are resized by this factor, on top of the model's own. Take
            the size of objects in training, divided by their size in your images.
        diameter: in place of `scale`: diameter of typical objects in your images in pixels. The model must
            know that of its training objects (`InputConfig.diameter`).
        settings: fields of `PostprocessConfig` to override, e.g. `score_threshold=0.3`.

    Attributes:
        on_tile: called with the number of tiles done and of all tiles of an image; set it to see progress.

    Raises:
        CheckpointError: no such model, or a file that cannot be loaded.
        ConfigError: a device, field or value that does not exist.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | nn.Module | Runtime,
        *,
        device: str | None = None,
        proposals: int | None = None,
        batch_size: int = 1,
        max_pixels: int = MAX_PIXELS,
        white_level: float | None = None,
        draft_jpeg: bool = False,
        algorithm: Algorithm = "fast",
        non_finite: NonFinite = "error",
        output_side: int | None = None,
        tta: bool = False,
        semantic: bool = False,
        instances: int = 0,
        tile: int | Literal["auto"] | None = "auto",
        overlap: int | None = None,
        skip_empty: bool = False,
        scale: float | None = None,
        diameter: float | None = None,
        **settings: Any,
    ) -> None:
        _require_settings(settings)  # before the model is loaded
        check_options(algorithm, non_finite, output_side)
        self.runtime = open_runtime(model, device, proposals, tta=tta)
        if self.runtime.categories is None:
            raise ConfigError(
                "the model has no categories, so its results have no names; create it with categories=…"
            )
        self.postprocess = replace(self.runtime.postprocess, **settings)
        RULES[self.postprocess.rule].check(self.postprocess, settings)
        own = {"algorithm": algorithm != "fast", "non_finite": non_finite != "error"}
        given = [*settings, *(name for name, changed in own.items() if changed)]
        if given and has_postprocessing(self.runtime):
            raise ConfigError(
                f"{model} has its post-processing inside, so {', '.join(given)} cannot be changed; "
                "export it again with `output=proposals`"
            )
        self.algorithm, self.non_finite, self.output_side = algorithm, non_finite, output_side
        self.semantic, self.instances = semantic, instances
        if semantic or instances:
            self.require_proposals()
        self.runtime = _rescaled(self.runtime, scale, diameter)
        self.tiles = tiles_of(self.runtime, tile, overlap, auto=not draft_jpeg)
        if semantic or instances:
            self._require_whole()
        if draft_jpeg and self.tiles is not None:
            raise ConfigError("`draft_jpeg` reads images smaller than `tile` needs them; leave one out")
        self.skip_empty = skip_empty
        self.on_tile: Callable[[int, int], None] = lambda done, count: None
        self.batch_size = max(batch_size, 1)
        self.max_pixels = max_pixels
        check_white_level(white_level)
        self.white_level = self.runtime.input.white_level if white_level is None else white_level
        self.draft_jpeg = draft_jpeg

    @property
    def categories(self) -> Categories:
        """The model's label set."""
        return self.runtime.categories

    @property
    def dense_from(self) -> Source:
        """What semantic maps and mask AP of this model are made from by default, see `merge.Rule`."""
        if has_postprocessing(self.runtime) or (self.tiles is not None and not self.tiles.auto):
            return "panoptic"  # there is nothing else in such a file, or of an image in tiles
        return RULES[self.postprocess.rule].dense_from

    def __repr__(self) -> str:
        return f"Predictor({self.runtime!r})"

    @property
    def reading(self) -> dict[str, Any]:
        """The arguments of `read_image` with which images are read for this model."""
        own = self.runtime.input
        limits = {"max_pixels": self.max_pixels, "white_level": self.white_level}
        return limits | {"channels": own.channels, "bits": own.bits}

    def answering(self, *, semantic: bool = False, instances: int = 0) -> Predictor:
        """The same predictor with the same network, whose results have other parts.

        Raises:
            ConfigError: the model is a file with post-processing inside, or segments images in tiles; neither
                has these parts.
        """
        other = copy(self)
        other.semantic, other.instances = semantic, instances
        if semantic or instances:
            self.require_proposals()
            self._require_whole()
        return other

    def for_dataset(self) -> Predictor:
        """The same predictor for the images of a data set, which applies the white level as it reads them."""
        other = copy(self)
        other.white_level = None
        return other

    @overload
    def __call__(self, images: list[Any] | tuple[Any, ...]) -> list[Segmentation]: ...
    @overload
    def __call__(self, images: Any) -> Segmentation: ...
    def __call__(self, images: Any) -> Segmentation | list[Segmentation]:
        """Segment one image, or a list of them.

        Args:
            images: a path, a Pillow image, an array H×W[×3], a tensor [3×]H×W (see `as_image`).

        Returns:
            A segmentation at the image's own size, with the image in it; a list for a list.

        Raises:
            ImageError: an image that cannot be read.
            MaskconverError: the network returned NaN or infinite values.
        """
        if not isinstance(images, list | tuple):
            return self._run([images])[0]
        results: list[Segmentation] = []
        for start in range(0, len(images), self.batch_size):
            results += self._run(images[start : start + self.batch_size])
        return results

    def _run(self, images: Sequence[Any]) -> list[Segmentation]:
        """One batch."""
        with ExitStack() as stack:
            ready = []
            for image in images:
                ready.append(one := self._read(image))
                if isinstance(one, Large):
                    stack.callback(one.close)
            return self._segment(ready)

    def stream(
        self,
        images: Iterable[Item],
        *,
        read: Callable[[Item], Any] | None = None,
        keep_images: bool = True,
        ahead: int = 2,
        threads: int = 2,
        seconds: dict[str, float] | None = None,
    ) -> Generator[tuple[Item, Segmentation | MaskconverError], None, None]:
        """Segment images one after the other, and read the next ones meanwhile.

        ```python
        for path, answer in predictor.stream(Path("plates").glob("*.png")):
            print(path, answer if isinstance(answer, Exception) else len(answer))
        ```

        Args:
            images: any number of what `Predictor` takes, or of what `read` takes.
            read: turns one of `images` into what `Predictor` takes, in a background thread; e.g.
                `dataset.image` for the indices of a data set.
            keep_images: false leaves the image out of the results. It is then released before the network
                runs, so that at most `threads` images are in memory at a time.
            ahead: how many images are read ahead, 0 or more; at least `batch_size - 1`.
            threads: how many images are read at a time.
            seconds: a dictionary to which the time of each stage is added: `decode` and `prepare` (resizing
                and normalising) in their threads; `waiting` for them, `network` and `postprocess` in the
                caller's.

        Yields:
            Each of `images` and its segmentation, in order; or the error that kept it from being segmented,
            after which the others follow.

        Warns:
            ImageWarning: in the caller's thread, before the image it is about.
        """
        times = {} if seconds is None else seconds

        def work(item: Item) -> _Read:
            spent: dict[str, float] = {}
            with kept_warnings() as notes:
                try:
                    return self._read(item, read, keep_images, spent), notes, spent
                except (MaskconverError, OSError, MemoryError) as error:
                    return _named(error), notes, spent

        steps = look_ahead(work, images, max(ahead, self.batch_size - 1), threads=max(threads, 1))
        with closing(steps) as coming:
            while begun := list(islice(coming, self.batch_size)):
                yield from self._finish(begun, times)

    def _finish(
        self, begun: list[tuple[Item, Future[_Read]]], times: dict[str, float]
    ) -> Iterator[tuple[Item, Segmentation | MaskconverError]]:
        """One batch of the stream; a function of its own so that nothing of it outlives it."""
        items = [item for item, _ in begun]
        with timed(times, "waiting"):
            done = [future.result() for _, future in begun]
        begun.clear()  # a future keeps its image
        for _, _, spent in done:
            for stage, value in spent.items():
                times[stage] = times.get(stage, 0.0) + value
        ready = [r for r, _, _ in done if not isinstance(r, MaskconverError)]
        try:
            answers = iter(self._answers(ready, times))
        finally:
            for one in ready:
                if isinstance(one, Large):
                    one.close()
        for item, (result, notes, _) in zip(items, done):
            for note in notes:
                warnings.warn(note, stacklevel=3)
            yield item, result if isinstance(result, MaskconverError) else next(answers)

    def _read(
        self,
        image: Any,
        read: Callable[[Any], Any] | None = None,
        keep: bool = True,
        seconds: dict[str, float] | None = None,
        tiled: bool = True,
    ) -> _Ready | Large:
        times = {} if seconds is None else seconds
        whole: tuple[int, int] | None = None
        # The scores of all masks are of whole images.
        tiles = None if self.semantic or self.instances or not tiled else self.tiles
        with timed(times, "decode"):
            image = read(image) if read else image
            is_path = isinstance(image, str | os.PathLike)
            if (
                tiles
                and is_path
                and (source := self._windows(image))
                and (tiling := tiles.over(source.shape))
            ):
                return Large(source, tiling, Path(image).name, False)
            if self.draft_jpeg and is_path:
                least = lambda size: scaled_size(size, self.runtime.input)  # noqa: E731
                pixels, whole = read_reduced(image, least, **self.reading)
                name = Path(image).name
            else:
                pixels, name = as_image(image, **self.reading)
        if tiles and (tiling := tiles.over(pixels.shape[:2])):
            return Large(InMemory(pixels), tiling, name, keep)
        with timed(times, "prepare"):
            canvas, geometry = self.network_input(pixels, whole)
        keep = keep and pixels.shape[:2] == geometry.image_size
        return _Ready(canvas, geometry, pixels if keep else None, name)

    def network_input(
        self, pixels: NDArray[Any], whole: tuple[int, int] | None = None
    ) -> tuple[NDArray[Any], Geometry]:
        """An image, read as `reading` says, as the runtime takes it, and how it lies there; see `prepare`."""
        dtype = getattr(self.runtime, "dtype", np.float32)
        size = self.fixed_size(pixels.shape[:2])
        return prepare(pixels, self.runtime.input, whole=whole, dtype=dtype, canvas=size)

    def cuts(self, size: tuple[int, ...]) -> bool:
        """Whether an image of (height, width) is segmented in tiles."""
        if self.tiles is None or self.semantic or self.instances:
            return False
        return self.tiles.over(size) is not None

    def reads_in_parts(self, path: str | os.PathLike[str]) -> bool:
        """Whether a file is so large that it is read window by window, so that no answer has its image."""
        if self.tiles is None or self.semantic or self.instances:
            return False
        with suppress(ImageError):  # of a damaged file, whoever reads it says what is wrong
            if (source := self._windows(path)) is not None:
                source.close()
                return True
        return False

    def _windows(self, path: str | os.PathLike[str]) -> TiffWindows | None:
        """A file that is read window by window, and cut into tiles."""
        source = open_windows(path, WINDOWED)
        if source is None or self.tiles is None:
            return None
        channels = self.runtime.input.channels
        if (channels in (1, 3) or source.shape[2] == channels) and max(source.shape[:2]) > self.tiles.tile:
            return source
        source.close()  # also where each channel is a page of its own
        return None

    def fixed_size(self, size: tuple[int, ...]) -> tuple[int, int] | None:
        """The input of a file of a fixed size, which smaller images are padded to; None for other models."""
        own, file = self.runtime.input, getattr(self.runtime, "file", None)
        fixed: tuple[int, int] | None = getattr(file, "size", None)
        if fixed is None or own.mode == "fit":
            return None
        scaled = scaled_size((size[0], size[1]), own)
        return fixed if scaled[0] <= fixed[0] and scaled[1] <= fixed[1] else None

    def _answers(
        self, ready: Sequence[_Ready | Large], seconds: dict[str, float]
    ) -> list[Segmentation | MaskconverError]:
        """As `_segment`, but what cannot be segmented is an error among the answers."""
        try:
            return [*self._segment(ready, seconds)]
        except (MaskconverError, OSError, MemoryError, RuntimeError) as error:
            if len(ready) == 1:
                return [_named(error)]
        return [answer for one in ready for answer in self._answers([one], seconds)]

    def _segment(
        self, ready: Sequence[_Ready | Large], seconds: dict[str, float] | None = None
    ) -> list[Segmentation]:
        """Runs neighbours together whose network inputs have one size."""
        times = {} if seconds is None else seconds
        # These two are made from the proposals of all scores.
        least = None if self.semantic or self.instances else self.postprocess.score_threshold
        results: list[Segmentation] = []
        for _, group in groupby(ready, key=_group):
            together = []
            for one in group:
                if isinstance(one, Large):
                    results.append(self._joined(one, times))
                else:
                    together.append(one)
            if not together:
                continue
            with timed(times, "network"):
                found = run(self.runtime, np.stack([one.canvas for one in together]), least)
            with timed(times, "postprocess"):
                answers = self._segmentations(found, tuple(one.geometry for one in together))
                results += [
                    replace(answer, image=_of_size(one.pixels, answer.ids.shape), file_name=one.name)
                    for answer, one in zip(answers, together)
                ]
        return results

    def _joined(self, large: Large, times: dict[str, float]) -> Segmentation:
        """An image segmented in tiles."""
        answer = segment_tiles(self, large, times)
        if self.output_side is not None:
            whole = Geometry(large.tiling.size, large.tiling.size)
            answer = answer.resized(whole.of_side(self.output_side).image_size)
        pixels = large.source.pixels if large.keep and isinstance(large.source, InMemory) else None
        return replace(answer, image=_of_size(pixels, answer.ids.shape), file_name=large.name)

    def _segmentations(
        self, found: Proposals | list[CanvasMap | ClassScores], geometry: tuple[Geometry, ...]
    ) -> list[Segmentation]:
        """What the runtime gave for some network inputs, as segmentations of their images."""
        if isinstance(found, Proposals):
            return self.segmentations(replace(found, geometry=geometry))
        own = self.runtime.input, self.categories
        return [one.segmentation(at, *own, side=self.output_side) for one, at in zip(found, geometry)]

    def proposals(self, image: Any) -> Proposals:
        """What the network proposes for one image, before any threshold.

        Args:
            image: as in a call.

        Returns:
            Of one image, with its geometry; arrays or tensors, as the runtime gives them.

        Raises:
            ImageError: an image that cannot be read.
            ConfigError: a file with its post-processing inside.
        """
        self.require_proposals()
        if self.tiles is not None and not self.tiles.auto:
            raise ConfigError("an image in tiles has no single set of proposals; leave out `tile`")
        ready = self._read(image, tiled=False)
        assert isinstance(ready, _Ready)
        found = self.runtime(ready.canvas[None])
        assert isinstance(found, Proposals)
        return replace(found, geometry=(ready.geometry,))

    def _require_whole(self) -> None:
        if self.tiles is not None and not self.tiles.auto:
            raise ConfigError("scores of all masks exist only for whole images; leave out `tile`")

    def require_proposals(self) -> None:
        """Refuses a file that gives results alone, where thresholds or masks are wanted.

        Raises:
            ConfigError: names the way out.
        """
        if has_postprocessing(self.runtime):
            raise ConfigError(
                f"{self.runtime!r} has its post-processing inside and gives no proposals; "
                "export it with `output=proposals`"
            )

    def segmentations(
        self, proposals: Proposals, config: PostprocessConfig | None = None
    ) -> list[Segmentation]:
        """Post-processing alone, as the predictor does it.

        Args:
            proposals: with geometry, e.g. of `proposals`.
            config: thresholds to use; the predictor's own if left out.

        Returns:
            A segmentation of each image.
        """
        config = config or self.postprocess
        answers = postprocess(
            proposals,
            config,
            self.categories,
            output_side=self.output_side,
            algorithm=self.algorithm,
            non_finite=self.non_finite,
        )
        if not (self.semantic or self.instances):
            return answers
        sized = tuple(one.of_side(self.output_side) for one in proposals.geometry)
        proposals = replace(proposals, geometry=sized)
        if self.non_finite == "drop":
            proposals = without_non_finite(proposals)
        if self.semantic:
            maps = semantic_maps(proposals, config, len(self.categories))
            answers = [replace(answer, semantic=labels) for answer, labels in zip(answers, maps)]
        if self.instances:
            found = instances(proposals, config, self.categories.is_thing, top=self.instances)
            answers = [replace(answer, instances=pairs) for answer, pairs in zip(answers, found)]
        return answers


def _group(one: _Ready | Large) -> tuple[int, int] | None:
    """What runs together: network inputs of one size; images in tiles run alone."""
    return None if isinstance(one, Large) else one.geometry.canvas_size


def _rescaled(runtime: Runtime, scale: float | None, diameter: float | None) -> Runtime:
    """The runtime with images resized by a factor more: `scale`, or that for objects of `diameter` pixels.

    Raises:
        ConfigError: both are given, or a value that is not above 0; the model resizes images to its own size,
            or does not know the diameter of its training objects.
    """
    name, value = ("scale", scale) if diameter is None else ("diameter", diameter)
    if value is None:
        return runtime
    if scale is not None and diameter is not None:
        raise ConfigError("`diameter` sets the scale; leave out `scale`")
    if not 0 < value < math.inf:
        raise ConfigError(f"`{name}={value:g}` must be a {NUMBERS[name]} above 0")
    if runtime.input.mode != "native":
        raise ConfigError(
            f"`{name}` is for models of mode native; this one resizes every image to its own size. "
            "Change the side of `tile` instead"
        )
    if diameter is not None:
        if (own := runtime.input.diameter) is None:
            raise ConfigError(
                f"{runtime!r} does not know the size of its training objects; give `scale`: their size "
                "divided by the size of yours"
            )
        value = own / diameter
    scaled = copy(runtime)
    scaled.input = replace(runtime.input, scale=runtime.input.scale * value)
    return scaled


def _require_settings(settings: dict[str, Any]) -> None:
    """Refuses names that no threshold has, and values out of range."""
    known = [field.name for field in fields(PostprocessConfig)]
    for name in settings:
        if name not in known:
            new = (OLD_NAMES | {"mode": "algorithm"}).get(name)
            there = f"it is called {new}" if new else f"there are {', '.join(known)}"
            raise ConfigError(f"no setting {name}; {there}")
    PostprocessConfig(**settings).check()


def _of_size(pixels: NDArray[Any] | None, size: tuple[int, ...]) -> NDArray[Any] | None:
    """The image at the size of an answer that is not its own (`output_side`)."""
    if pixels is None or pixels.shape[:2] == size:
        return pixels
    resized = resize_bilinear(pixels, (size[0], size[1])) + 0.5
    return np.clip(resized, 0, white_of(pixels)).astype(pixels.dtype)


def _named(error: Exception) -> MaskconverError:
    """The error as one of ours, in one line."""
    if isinstance(error, MaskconverError):
        return error
    text = one_line(error)
    named = ImageError(text) if isinstance(error, OSError) else MaskconverError(text)
    named.__cause__ = error
    return named
