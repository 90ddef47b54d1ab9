"""What an exported file says about itself, whatever its format: how images go in, and what comes out."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..core.categories import Categories
from ..core.config import InputConfig, PostprocessConfig, renamed
from ..core.preprocess import scaled_size
from ..core.proposals import Geometry, Proposals
from ..core.resize import lerp, resize_nearest
from ..core.segmentation import Segmentation
from ..core.segments import lookup
from ..errors import CheckpointError, ConfigError, MaskconverError
from ..merge.maskconver import output_taps
from ..merge.semantic import BAND_VALUES

FORMAT = 1  # raised when files of an older package can no longer be read as they are
KEY = "maskconver"  # under which the description stands in a file's own metadata

INPUT = "images"
OUTPUTS = {
    "proposals": ("scores", "labels", "mask_logits"),
    "panoptic": ("ids", "segments", "scores"),
    "semantic": ("class_scores",),
}

Output = Literal["proposals", "panoptic", "semantic"]
Precision = Literal["none", "fp16", "int8-weights", "int8"]


@dataclass
class Exported:
    """The description inside an exported file, as JSON.

    Attributes:
        name: of the model it was made from.
        version: of the package that wrote it.
        size: (height, width) of the network input; None where the file takes any.
        multiple: sides of a file that takes any size are multiples of this many pixels.
        proposals: number of masks per image.
        uint8: the file takes 1×h×w×3 uint8 RGB and normalises it, not 1×3×h×w float32 normalised.
        quantize: how its weights are stored.
        input: how an image is brought to the canvas.
        postprocess: the thresholds of the model's answer.
        categories: the label set.
        output: `proposals`, the fields of `Proposals`; `panoptic`, those of `CanvasMap`: then the merge, with
            the thresholds of `postprocess`, is in the file; or `semantic`, that of `ClassScores`.
        batch: the file takes several network inputs of one size at a time.
    """

    name: str
    version: str
    size: tuple[int, int] | None
    multiple: int
    proposals: int
    uint8: bool
    quantize: Precision
    input: InputConfig
    postprocess: PostprocessConfig
    categories: Categories
    output: Output = "proposals"
    batch: bool = False

    def to_json(self) -> str:
        """The description as JSON."""
        rows = {name: getattr(self, name) for name in self.__dataclass_fields__}
        text: bytes = msgspec.json.encode({"format": FORMAT, **rows}, enc_hook=Categories.to_json)
        return text.decode()

    def plain(self) -> dict[str, str]:
        """What other viewers read: `names`, `task`, `stride` and `imgsz`, each a text, a Python literal.

        `stride` is what sides of the input are multiples of, `imgsz` its height and width; of a file that
        takes any size those of the training crop.
        """
        return {
            "names": str(dict(enumerate(self.categories.names))),
            "task": "panoptic" if self.categories.is_thing.any() else "semantic",
            "stride": str(max(self.multiple, self.input.multiple)),
            "imgsz": str(list(self.size or self.input.size)),
        }

    @classmethod
    def from_json(cls, text: str | None, path: str | os.PathLike[str]) -> Exported:
        """The description that the file `path` carries.

        Raises:
            CheckpointError: there is none, it is damaged, or of another version.
        """
        if not text:
            raise CheckpointError(
                f"{path} has no description of its input and categories; it was not written by "
                "maskconver export"
            )
        try:
            rows = msgspec.json.decode(text, type=dict[str, Any])
            if rows.pop("format", None) != FORMAT:
                raise CheckpointError(
                    f"{path} was exported by maskconver {rows.get('version')} in another format than this "
                    f"version reads ({FORMAT}); export the model again"
                )
            found = msgspec.convert(renamed(rows), cls, dec_hook=lambda _, rows: Categories.from_json(rows))
            found.input.for_channels(found.input.channels)  # as many numbers in std as in mean
            return found
        except (
            msgspec.MsgspecError,
            TypeError,
            KeyError,
            ValueError,
            RecursionError,
            MaskconverError,
        ) as error:
            raise CheckpointError(f"{path} has a damaged description: {error}; export it again") from error


@dataclass(frozen=True, slots=True)
class CanvasMap:
    """The panoptic map of one canvas, padding and all.

    Attributes:
        ids: H×W int32, 0 = void.
        segments: (N, 3) int32, in each row id, label and area of a segment, best first; then (0, -1, 0).
        scores: (N,) float32 of the segments, then 0.
    """

    ids: NDArray[np.int32]
    segments: NDArray[np.int32]
    scores: NDArray[np.float32]

    def segmentation(
        self,
        geometry: Geometry,
        config: InputConfig,
        categories: Categories,
        *,
        image: bool = True,
        side: int | None = None,
    ) -> Segmentation:
        """The map cut to the image and brought to its size, each pixel from the nearest of the canvas.

        Segments of which nothing is left are dropped; the others are numbered 1…S again.

        Args:
            geometry: how the network input lies on the image.
            config: the file's input.
            categories: the label set.
            image: false leaves the map at the size of the network input.
            side: longer side of the answer in pixels, the image's own if left out.

        Raises:
            MaskconverError: a segment that is not listed, or of a label that does not exist.
        """
        ids = self.ids
        if image:
            height, width = scaled_size(geometry.image_size, config)
            ids = resize_nearest(ids[:height, :width], geometry.of_side(side).image_size)
        listed = self.segments[:, 0][self.segments[:, 0] > 0]
        there = np.unique(ids)
        labels = self.segments[: len(listed), 1]
        if not np.isin(there[there != 0], listed).all() or np.any((labels < 0) | (labels >= len(categories))):
            raise MaskconverError("the file's id map and its table of segments do not agree; export it again")
        kept = np.isin(listed, there)
        numbered = lookup(ids, listed[kept], np.arange(1, kept.sum() + 1), 0)
        rows = np.flatnonzero(kept)
        return Segmentation.from_ids(numbered, categories, labels=labels[rows], scores=self.scores[rows])


@dataclass(frozen=True, slots=True)
class ClassScores:
    """The score of every class at every pixel of the masks of one network input.

    Attributes:
        class_scores: C×h×w float32, see `merge.semantic.semantic_scores`.
    """

    class_scores: NDArray[np.float32]

    def segmentation(
        self, geometry: Geometry, config: InputConfig, categories: Categories, *, side: int | None = None
    ) -> Segmentation:
        """Each pixel has the class of the highest score, and each class is one segment.

        Args:
            geometry: how the network input lies on the image.
            config: the file's input.
            categories: the label set, of stuff only.
            side: longer side of the answer in pixels, the image's own if left out.
        """
        rows, columns = output_taps(self.class_scores.shape[1:], geometry.of_side(side), None)
        lines = lerp(self.class_scores, columns, 2)
        band = max(BAND_VALUES // max(lines[:, 0].size, 1), 1)
        labels, best = [], []
        for top in range(0, len(rows), band):
            scores = lerp(lines, rows[top : top + band], 1)
            labels.append(scores.argmax(0).astype(np.int32))
            best.append(scores.max(0))
        of_pixels = np.concatenate(labels)
        sums = np.bincount(of_pixels.ravel(), np.concatenate(best).ravel())
        counts = np.bincount(of_pixels.ravel())
        there = np.flatnonzero(counts)
        ids = lookup(of_pixels, there, np.arange(1, len(there) + 1), 0)
        means = np.minimum(sums[there] / counts[there], 1)
        return Segmentation.from_ids(ids, categories, labels=there, scores=means)


class FileRuntime(ABC):
    """A file written by `maskconver export`; see `Runtime` for the attributes.

    A format gives `_answer`, which runs one network input (or several, if the file takes a batch), and
    whether it wants channels last.

    Args:
        path: the file.
        file: its description.
        proposals: number of masks per image, at most as many as the file gives; all of them if left out.

    Raises:
        ConfigError: more proposals than the file gives.
    """

    channels_last = False

    def __init__(self, path: str | os.PathLike[str], file: Exported, proposals: int | None) -> None:
        self.path, self.file = path, file
        self.input, self.postprocess, self.categories = file.input, file.postprocess, file.categories
        if proposals is not None and file.output != "proposals":
            raise ConfigError(
                f"{path} includes post-processing for a fixed number of proposals; export it with another"
            )
        if proposals is not None and not 1 <= proposals <= file.proposals:
            raise ConfigError(
                f"{path} gives {file.proposals} proposals, not {proposals}; "
                f"export the model with `proposals={proposals}`"
            )
        self.proposals = proposals or file.proposals

    def __repr__(self) -> str:
        return f"{self.file.name} in {Path(self.path).name}"

    @property
    def dtype(self) -> type[np.float32 | np.uint8]:
        """Of the network inputs it takes: B×3×h×w float32 normalised, or B×h×w×3 uint8."""
        return np.uint8 if self.file.uint8 else np.float32

    def __call__(self, images: NDArray[Any]) -> Proposals | list[CanvasMap | ClassScores]:
        """Network inputs, as `dtype` says, to their proposals, without geometry; or to one map each.

        Raises:
            ConfigError: inputs of another dtype, number of channels or size than the file takes.
        """
        answers = self._run(images)
        if self.file.output == "panoptic":
            return [CanvasMap(*(part[0] for part in answer)) for answer in answers]
        if self.file.output == "semantic":
            last = self.channels_last
            each = (one for answer in answers for one in answer[0])
            return [ClassScores(one.transpose(2, 0, 1) if last else one) for one in each]
        scores, labels, masks = (
            np.concatenate(column) if len(column) > 1 else column[0] for column in zip(*answers)
        )
        # Sorted by score, so fewer proposals are the first ones.
        k = self.proposals
        return Proposals(scores[:, :k], labels[:, :k].astype(np.int64, copy=False), masks[:, :k])

    @abstractmethod
    def _answer(self, canvas: NDArray[Any]) -> list[NDArray[Any]]:
        """Canvases, as the file takes them, to the file's outputs in the order of `OUTPUTS`."""

    def _require(self, given: list[tuple[str, str]], expected: tuple[str, str], outputs: list[str]) -> None:
        """Refuses a file whose input or outputs are not what its description says."""
        names = OUTPUTS[self.file.output]
        if given != [expected] or sorted(outputs) != sorted(names):
            raise CheckpointError(
                f"{self.path} takes {given} and gives {', '.join(outputs)}, but maskconver's files take "
                f"{[expected]} and give {', '.join(names)}; export the model again"
            )

    def _run(self, images: NDArray[Any]) -> list[list[NDArray[Any]]]:
        """The outputs for all network inputs, or one after the other: most files take one at a time."""
        self._check_canvases(images)
        fed = as_fed(images, self.channels_last)
        if self.file.batch:
            return [self._answer(fed)]
        return [self._answer(fed[i : i + 1]) for i in range(len(fed))]

    def _check_canvases(self, images: NDArray[Any]) -> None:
        channels, last = self.input.channels, self.file.uint8
        if images.dtype != self.dtype or images.ndim != 4 or images.shape[3 if last else 1] != channels:
            raise ConfigError(
                f"{self.path} takes {f'B×h×w×{channels} uint8' if last else f'B×{channels}×h×w float32'}, "
                f"not {'×'.join(str(n) for n in images.shape)} {images.dtype}"
            )
        height, width = images.shape[1:3] if last else images.shape[2:]
        size, step = self.file.size, self.file.multiple
        if size is not None and (height, width) != tuple(size):
            raise ConfigError(
                f"{self.path} takes {size[0]}×{size[1]}, not {height}×{width}; export with "
                f"`size={height} {width}` or `dynamic`"
            )
        if size is None and (height % step or width % step or not height or not width):
            raise ConfigError(f"{self.path} takes sides that are multiples of {step}, not {height}×{width}")


def as_fed(images: NDArray[Any], channels_last: bool) -> NDArray[Any]:
    """Network inputs as a format takes them; bytes have their channels last already."""
    if not channels_last or images.dtype == np.uint8:
        return images
    # Plane by plane: five times as fast as copying the transposed array.
    return np.stack([images[:, i] for i in range(images.shape[1])], -1)


def require_file(path: str | os.PathLike[str]) -> None:
    """Refuses a path where there is no file.

    Raises:
        CheckpointError: naming it.
    """
    if not Path(path).is_file():
        raise CheckpointError(f'no model file "{path}"')


def operator_threads() -> int:
    """Threads of an operator: `OMP_NUM_THREADS`, or the cores the process may use if not all; else 0."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdecimal() and int(asked):
        return int(asked)
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    return allowed if allowed < (os.cpu_count() or 0) else 0
