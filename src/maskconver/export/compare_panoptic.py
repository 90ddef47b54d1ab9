"""A file with the merge inside against its model and the plain merge, pixel by pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.proposals import Proposals
from ..errors import ExportError, MaskconverError
from ..inference.runtime import TorchRuntime
from ..merge import merge
from ..models.registry import Model
from .compare import Comparison, _batches, differing_pixels, generated


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
        file: the opened file, with `canvas_maps`.
        images: H×W×3 uint8; generated ones if left out.

    Returns:
        Pixels of the canvases, and how far the scores of segments that both have are apart.

    Raises:
        ExportError: the file's map and table do not agree.
    """
    own = TorchRuntime(model, proposals=file.file.proposals)
    plain = replace(file.merge, mode="reference")
    result = PanopticComparison()
    for canvases, geometry in _batches(file, images or generated(file.file)):
        found: Proposals = replace(own(canvases).numpy(), geometry=())
        wanted = merge(found, plain, file.categories, output_size=file.file.size)
        for expected, answer, where in zip(wanted, file.canvas_maps(canvases), geometry):
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
