"""An exported file against the model it was made from: proposals one by one, panoptic maps pixel by pixel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.preprocess import normalize, prepare
from ..core.proposals import Geometry, Proposals
from ..core.segmentation import Segmentation
from ..data.synth.write import synthesize
from ..errors import ExportError, MaskconverError
from ..inference.exported import Exported, FileRuntime, Precision
from ..inference.torch import TorchRuntime
from ..merge import RULES, postprocess
from ..models.registry import Model


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
# A quantised file with the merge inside gives nothing but maps: they may differ in so many of their pixels.
QUANTIZED_MAPS = 0.5


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


def compare(model: Model, file: FileRuntime, images: Sequence[NDArray[np.uint8]] | None = None) -> Comparison:
    """Runs model and file on the same canvases.

    Args:
        model: the model the file was made from, wherever it is.
        file: the opened file.
        images: H×W×3 uint8; generated ones if left out.

    Raises:
        ExportError: the file gives NaN or infinite values.
    """
    # Centres can be asked for in any number, queries are as many as they are.
    more = 2 * file.proposals if RULES[file.postprocess.rule].independent_masks else file.proposals
    own = TorchRuntime(model, proposals=more)
    tolerance = TOLERANCES[file.file.quantize]
    result = Comparison()
    for canvases, fed, geometry in _batches(file, images or generated(file.file)):
        expected, answer = own(canvases).numpy(), file(fed)
        assert isinstance(answer, Proposals)
        count = min(file.proposals, expected.scores.shape[1])
        if answer.scores.shape[1] != count:
            raise ExportError(f"the file gives {answer.scores.shape[1]} proposals, the model {count}")
        for i in range(len(geometry)):
            found, other = _one(expected, i, None, geometry[i]), _one(answer, i, None, geometry[i])
            _add_proposals(result, found, other, tolerance)
            one = _one(expected, i, count, geometry[i])
            try:
                maps = [postprocess(p, file.postprocess, file.categories)[0] for p in (one, other)]
            except MaskconverError as error:
                raise ExportError(f"the exported file cannot be used: {error}") from error
            result.images += 1
            result.pixels += maps[0].ids.size
            result.differing += differing_pixels(maps[0], maps[1])
    return result


def require_equal(result: Comparison, precision: Precision) -> None:
    """Refuses a file that differs more than its precision explains.

    Raises:
        ExportError: with the figures.
    """
    allowed = TOLERANCES[precision]
    # Written so that NaN fails, too.
    equal = (
        result.scores <= allowed.scores
        and result.masks <= allowed.masks
        and result.unpaired <= allowed.unpaired * result.proposals
        and result.differing <= allowed.pixels * result.pixels
    )
    if not equal:
        raise ExportError(f"the file does not answer as the model does and was not kept: {result}")


def require_alike(result: Comparison) -> None:
    """Refuses a quantised file with the merge inside whose maps differ by more than `QUANTIZED_MAPS`.

    Raises:
        ExportError: with the figures.
    """
    if result.differing > QUANTIZED_MAPS * result.pixels:
        raise ExportError(
            f"the quantised file does not answer as the model does and was not kept: {result}; "
            "with another `quantize` it may"
        )


def generated(file: Exported) -> list[NDArray[np.uint8]]:
    """Pictures a file is compared on where none are given; of several sizes where it takes them."""
    sizes = [file.size, file.size] if file.size else [(96, 160), (96, 160), (20, 30)]
    return [synthesize(("scenes", "cells")[i % 2], size, i).image for i, size in enumerate(sizes)]


def _batches(
    file: FileRuntime, images: Sequence[NDArray[np.uint8]]
) -> Iterator[tuple[NDArray[np.float32], NDArray[Any], list[Geometry]]]:
    """Network inputs of one size together, as the model and as the file takes them.

    For a file of any size they are as large as the pictures.
    """
    config = file.input if file.file.size else replace(file.input, mode="native", multiple=file.file.multiple)
    ready = (prepare(image, config, dtype=file.dtype) for image in images)
    for _, group in groupby(ready, key=lambda one: one[1].canvas_size):
        canvases, geometry = zip(*group)
        fed = stack = np.stack(canvases)
        if file.file.uint8:  # the model gets the same bytes, normalised
            stack = np.ascontiguousarray(normalize(fed, config).transpose(0, 3, 1, 2))
        yield stack, fed, list(geometry)


def _one(proposals: Proposals, i: int, count: int | None, geometry: Geometry) -> Proposals:
    """The first `count` proposals of one image."""
    part = slice(i, i + 1), slice(count)
    return Proposals(
        proposals.scores[part], proposals.labels[part], proposals.mask_logits[part], geometry=(geometry,)
    )


def _add_proposals(result: Comparison, expected: Proposals, answer: Proposals, tolerance: Tolerance) -> None:
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


@dataclass
class PanopticComparison(Comparison):
    """How much a file's panoptic maps differ from the plain merge of its model's proposals."""

    def __str__(self) -> str:
        return (
            f"on {self.images} images {self.differing} of {self.pixels} pixels of the panoptic maps differ, "
            f"scores of their segments by at most {self.scores:.1e}"
        )


def compare_panoptic(
    model: Model, file: Any, images: Sequence[NDArray[np.uint8]] | None = None
) -> PanopticComparison:
    """Runs model and file on the same canvases; the model's proposals are merged by `PlainCompetition`.

    Args:
        model: the model the file was made from, wherever it is.
        file: the opened file, which gives panoptic maps.
        images: H×W×3 uint8; generated ones if left out.

    Returns:
        Pixels of the canvases, and how far the scores of segments that both have are apart.

    Raises:
        ExportError: the file's map and table do not agree.
    """
    own = TorchRuntime(model, proposals=file.file.proposals)
    result = PanopticComparison()
    for canvases, fed, geometry in _batches(file, images or generated(file.file)):
        found: Proposals = replace(own(canvases).numpy(), geometry=())
        wanted = postprocess(
            found, file.postprocess, file.categories, output_size=file.file.size, algorithm="reference"
        )
        for expected, answer, where in zip(wanted, file(fed), geometry):
            try:
                given = answer.segmentation(where, file.input, file.categories, image=False)
            except MaskconverError as error:
                raise ExportError(f"the exported file cannot be used: {error}") from error
            result.images += 1
            result.pixels += expected.ids.size
            result.differing += differing_pixels(expected, given)
            if [s.label for s in expected] == [s.label for s in given]:
                apart = (abs(a.score - b.score) for a, b in zip(expected, given))
                result.scores = max(result.scores, *apart, 0.0)
    return result
