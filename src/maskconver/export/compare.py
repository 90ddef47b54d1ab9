"""An exported file against the model it was made from: proposals one by one, panoptic maps pixel by pixel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..core.preprocess import normalize, prepare
from ..core.proposals import Geometry, Proposals
from ..core.segmentation import Segmentation
from ..errors import ExportError, MaskconverError
from ..inference.exported import CanvasMap, ClassScores, Exported, FileRuntime, Precision
from ..inference.torch import TorchRuntime
from ..merge import postprocess
from ..merge.semantic import semantic_scores
from ..models.base import SegmentationModel


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What a file may differ by: scores; mask logits as a share of their range; shares of all."""

    scores: float
    masks: float
    unpaired: float
    pixels: float


TOLERANCES: dict[Precision, Tolerance] = {
    # A neighbour that is by about `PEAK_TOLERANCE` worse may be a peak in one of the two: hence the 2 %.
    "none": Tolerance(1e-4, 1e-4, 0.02, 1e-4),
    # Pixels are only stated: where masks are nearly equal, as before training, the least change decides.
    "fp16": Tolerance(0.02, 0.05, 0.05, 1.0),
    "int8-weights": Tolerance(0.1, 0.25, 0.2, 1.0),
    "int8": Tolerance(0.25, 0.5, 0.4, 1.0),
}
# A quantised file with the post-processing inside gives nothing but maps.
QUANTIZED_MAPS = Tolerance(np.inf, np.inf, 1.0, 0.5)


@dataclass
class Comparison:
    """How much a file's answers differ from its model's.

    Attributes:
        images: compared.
        scores: greatest difference of the scores of two paired proposals.
        masks: greatest difference of their mask logits, as a share of the image's largest if above 1.
        proposals: compared, of all images.
        unpaired: those without a counterpart of the same label, score and mask.
        pixels: of all panoptic maps.
        differing: those in another segment, or void in one of the two; numbers of segments do not count.
    """

    images: int = 0
    scores: float = 0.0
    masks: float = 0.0
    proposals: int = 0
    unpaired: int = 0
    pixels: int = 0
    differing: int = 0

    def __str__(self) -> str:
        return (
            f"on {self.images} images scores differ by at most {self.scores:.1e}, masks by "
            f"{self.masks:.1e} of their range, {self.unpaired} of {self.proposals} proposals have no "
            f"counterpart, {self.differing} of {self.pixels} pixels of the panoptic maps differ"
        )


@dataclass
class PanopticComparison(Comparison):
    """How much a file's panoptic maps differ from the post-processing of its model's proposals.

    `scores` is the greatest difference of two segments' scores; maps are those of the network input.
    """

    def __str__(self) -> str:
        return (
            f"on {self.images} images {self.differing} of {self.pixels} pixels of the panoptic maps differ, "
            f"scores of their segments by at most {self.scores:.1e}"
        )


@dataclass
class SemanticComparison(Comparison):
    """How much a file's scores of classes differ from those of its model's proposals.

    `scores` is the greatest difference as a share of the image's largest if above 1; `differing` are pixels
    whose class is worse by more than the precision explains.
    """

    def __str__(self) -> str:
        return (
            f"on {self.images} images scores of classes differ by at most {self.scores:.1e}, "
            f"{self.differing} of {self.pixels} pixels have another class"
        )


def compare(
    model: SegmentationModel, file: FileRuntime, images: Sequence[NDArray[np.uint8]] | None = None
) -> Comparison:
    """Runs model and file on the same network inputs.

    Args:
        model: the model the file was made from, on any device.
        file: the opened file.
        images: H×W×C uint8, as the model takes them; generated ones if left out.

    Raises:
        ExportError: the file gives NaN or infinite values, or a map and a table that do not agree.
    """
    result, add = Comparison(), _add_proposals
    if file.file.output == "panoptic":
        result, add = PanopticComparison(), _add_maps
    elif file.file.output == "semantic":
        result, add = SemanticComparison(), _add_classes
    # A file's last proposals may be the model's next ones, where it can be asked for more.
    more = 1 if file.file.output != "proposals" or not model.first_stay_first else 2
    own = TorchRuntime(model, proposals=more * file.proposals)
    for fed in _batches(file, images or generated(file.file)):
        try:
            add(result, own(fed.normalized).numpy(), file, fed)
        except ExportError:
            raise
        except MaskconverError as error:
            raise ExportError(f"the exported file cannot be used: {error}") from error
    return result


def require_equal(result: Comparison, file: Exported) -> None:
    """Refuses a file that differs more than its precision explains.

    Raises:
        ExportError: with the figures.
    """
    quantized_maps = file.output == "panoptic" and file.quantize != "none"
    allowed = QUANTIZED_MAPS if quantized_maps else TOLERANCES[file.quantize]
    # Written so that NaN fails, too.
    equal = (
        result.scores <= allowed.scores
        and result.masks <= allowed.masks
        and result.unpaired <= allowed.unpaired * result.proposals
        and result.differing <= allowed.pixels * result.pixels
    )
    if not equal:
        raise ExportError(
            f"the {'quantised ' if file.quantize != 'none' else ''}file gives other results than the model "
            f"and was not kept: {result}" + ("; try another `quantize`" if file.quantize != "none" else "")
        )


def generated(file: Exported) -> list[NDArray[np.uint8]]:
    """Ellipses on a slope of colour, the same each time; of several sizes where the file takes them."""
    images, random = [], np.random.default_rng(0)
    for height, width in [file.size] * 2 if file.size else [(96, 160), (96, 160), (20, 30)]:
        y, x = np.mgrid[:height, :width] / max(height, width)
        c = file.input.channels
        image = random.uniform(20, 120, c) + random.uniform(-60, 60, c) * (x + y)[..., None]
        for _ in range(12):
            (cy, cx), (ry, rx) = random.random((2, 2)) * [[y.max(), x.max()], [0.15, 0.15]] + 0.02
            image[((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1] = random.uniform(0, 255, c)
        noise = random.normal(0, 4, image.shape)
        images.append(np.clip(image + noise, 0, 255).astype(np.uint8))
    return images


class Fed(NamedTuple):
    """B network inputs of one size: as the file takes them, normalised for the model, and their geometry."""

    canvases: NDArray[Any]
    normalized: NDArray[np.float32]
    geometry: tuple[Geometry, ...]


def _batches(file: FileRuntime, images: Sequence[NDArray[np.uint8]]) -> Iterator[Fed]:
    """Network inputs, those of one size together.

    For a file of any size they are as large as the images.
    """
    config = file.input if file.file.size else replace(file.input, mode="native", multiple=file.file.multiple)
    ready = (prepare(image, config, dtype=file.dtype) for image in images)
    for _, group in groupby(ready, key=lambda one: one[1].canvas_size):
        canvases, geometry = zip(*group)
        stack = normalized = np.stack(canvases)
        if file.file.uint8:  # the model gets the same rounded bytes as the file
            normalized = np.ascontiguousarray(normalize(stack, config).transpose(0, 3, 1, 2))
        yield Fed(stack, normalized, geometry)


def _one(proposals: Proposals, i: int, count: int | None, geometry: Geometry) -> Proposals:
    """The first `count` proposals of one image."""
    part = slice(i, i + 1), slice(count)
    return Proposals(
        proposals.scores[part], proposals.labels[part], proposals.mask_logits[part], geometry=(geometry,)
    )


def _add_proposals(result: Comparison, expected: Proposals, file: FileRuntime, fed: Fed) -> None:
    """Counts the proposals of some images and the pixels of the maps that they become."""
    answer = file(fed.canvases)
    assert isinstance(answer, Proposals)
    count = min(file.proposals, expected.scores.shape[1])
    if answer.scores.shape[1] != count:
        raise ExportError(f"the file gives {answer.scores.shape[1]} proposals, the model {count}")
    for i, at in enumerate(fed.geometry):
        other, one = _one(answer, i, None, at), _one(expected, i, count, at)
        _pair(result, _one(expected, i, None, at), other, TOLERANCES[file.file.quantize])
        maps = [postprocess(p, file.postprocess, file.categories)[0] for p in (one, other)]
        result.images += 1
        result.pixels += maps[0].ids.size
        result.differing += differing_pixels(maps[0], maps[1])


def _add_maps(result: Comparison, expected: Proposals, file: FileRuntime, fed: Fed) -> None:
    """Counts the pixels of some images' maps, and how far scores of segments that both have are apart."""
    found, size = replace(expected, geometry=()), file.file.size
    wanted = postprocess(found, file.postprocess, file.categories, output_size=size, algorithm="reference")
    maps = file(fed.canvases)
    assert isinstance(maps, list)
    for one, answer, at in zip(wanted, maps, fed.geometry):
        assert isinstance(answer, CanvasMap)
        given = answer.segmentation(at, file.input, file.categories, image=False)
        result.images += 1
        result.pixels += one.ids.size
        result.differing += differing_pixels(one, given)
        if [s.label for s in one] == [s.label for s in given]:
            result.scores = max(result.scores, *(abs(a.score - b.score) for a, b in zip(one, given)), 0.0)


def _add_classes(result: Comparison, expected: Proposals, file: FileRuntime, fed: Fed) -> None:
    """Counts the pixels of some images' masks, and how far their scores are apart."""
    answers = file(fed.canvases)
    assert isinstance(answers, list)
    wanted = semantic_scores(replace(expected, geometry=()), file.postprocess, len(file.categories))
    for own, answer in zip(wanted, answers):
        assert isinstance(answer, ClassScores)
        given, span = answer.class_scores, max(float(own.max()), 1.0)
        if own.shape != given.shape or not np.isfinite(given).all():
            raise ExportError(f"the file gives scores {given.shape}, some NaN or infinite; not {own.shape}")
        apart = float(np.abs(own - given).max()) / span
        chosen = np.take_along_axis(own, given.argmax(0)[None], 0)[0]
        worse = own.max(0) - chosen > TOLERANCES[file.file.quantize].scores * span
        result.images, result.pixels = result.images + 1, result.pixels + worse.size
        result.scores, result.differing = max(result.scores, apart), result.differing + int(worse.sum())


def _pair(result: Comparison, expected: Proposals, answer: Proposals, tolerance: Tolerance) -> None:
    """Counts one image: each proposal of the file is compared with the one of the model most like it.

    Not with the one of the same rank: nearly equal scores may stand in another order in the two, and the last
    places may go to different ones. So the model gives more proposals than the file: the file's must be
    among them, and those that are clearly better than the file's last must be in the file.
    """
    scores, others = answer.scores[0], expected.scores[0]
    masks, theirs = (p.mask_logits[0].reshape(p.scores.shape[1], -1) for p in (answer, expected))
    span = max(float(np.abs(theirs).max()), 1.0)
    near = np.abs(scores[:, None] - others) <= tolerance.scores
    squares = [(m.astype(np.float64) ** 2).sum(1) for m in (masks, theirs)]
    distance = squares[0][:, None] + squares[1] - 2.0 * (masks @ theirs.T)
    distance[~(near & (answer.labels[0][:, None] == expected.labels[0]))] = np.inf
    free = np.ones(len(others), bool)
    for row, score in enumerate(scores):
        column = int(np.where(free, distance[row], np.inf).argmin())
        difference = float(np.abs(masks[row] - theirs[column]).max()) / span
        if not (np.isfinite(distance[row, column]) and free[column] and difference <= tolerance.masks):
            result.unpaired += 1
            continue
        free[column] = False
        result.masks = max(result.masks, difference)
        result.scores = max(result.scores, float(abs(score - others[column])))
    result.unpaired += int(
        (free[: len(scores)] & (others[: len(scores)] > scores[-1] + tolerance.scores)).sum()
    )
    result.proposals += len(scores)


def differing_pixels(first: Segmentation, second: Segmentation) -> int:
    """Pixels in another segment; a segment's counterpart is the one that shares most pixels with it."""
    pairs, counts = np.unique(np.stack([first.ids.ravel(), second.ids.ravel()]), axis=1, return_counts=True)
    labels = [{0: -1} | {s.id: s.label for s in seg} for seg in (first, second)]
    best: list[dict[int, tuple[int, int]]] = [{}, {}]
    for a, b, n in zip(*pairs.tolist(), counts.tolist()):
        if labels[0][a] == labels[1][b]:
            best[0][a] = max(best[0].get(a, (0, 0)), (n, b))
            best[1][b] = max(best[1].get(b, (0, 0)), (n, a))
    same = sum(n for a, (n, b) in best[0].items() if best[1][b] == (n, a))
    return first.ids.size - same
