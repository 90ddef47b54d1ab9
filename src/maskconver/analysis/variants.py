"""A model with other numbers of proposals, or on other input sizes: the network runs again for each."""

from __future__ import annotations

import time
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any

from ..core.categories import Categories
from ..core.config import InputConfig
from ..core.segments import SegmentTable
from ..errors import ConfigError
from ..inference.evaluation import Figures
from ..inference.predictor import Predictor

FACTORS: dict[str, tuple[float, ...]] = {
    "proposals": (0.125, 0.25, 0.5, 1.0, 2.0),
    "size": (0.5, 0.75, 1.0, 1.25, 1.5),
}
"""What can be varied, and the values as shares of the model's own."""


@dataclass
class Variant:
    """One value of a sweep.

    Attributes:
        value: the number of proposals; the longer side of the input in pixels, or for models that keep the
            size of images the factor by which they are resized.
        predictor: with it.
        figures: of the images so far.
        seconds: of network and post-processing, all images together.
    """

    value: float
    predictor: Predictor
    figures: Figures
    seconds: float = 0.0


@dataclass
class Variants:
    """All values of one sweep.

    Args:
        name: of `FACTORS`.
        predictor: the model as it is.
        categories: of the data.

    Raises:
        ConfigError: sizes of a file whose input has one.

    Attributes:
        own: the value in use.
        all: those the model can take; others are left out once the first image shows it.
    """

    name: str
    predictor: Predictor
    categories: Categories
    own: float = float("nan")
    all: list[Variant] = field(default_factory=list)

    def __post_init__(self) -> None:
        file = getattr(self.predictor.runtime, "file", None)
        if self.name == "size" and getattr(file, "size", None) is not None:
            raise ConfigError(
                "the input of this file has one size, so `size` cannot be varied; analyze the model it was "
                "exported from"
            )

    def add(self, image: Any, ids: Any, segments: SegmentTable) -> None:
        """Count one image."""
        first = not self.all
        if first:
            self._begin(image)
        for variant in list(self.all):
            start = time.perf_counter()
            try:
                answer = variant.predictor.segmentations(variant.predictor.proposals(image))[0]
            except (ConfigError, RuntimeError, ValueError):
                if not first or variant.value == self.own:
                    raise
                self.all.remove(variant)
                continue
            variant.seconds += time.perf_counter() - start
            variant.figures.add_image(answer, ids, segments)

    def _begin(self, image: Any) -> None:
        runtime = self.predictor.runtime
        if self.name == "proposals":
            self.own = float(self.predictor.proposals(image).scores.shape[1])
            for factor in FACTORS["proposals"]:
                number, other = max(round(self.own * factor), 1), copy(runtime)
                if hasattr(other, "options"):  # of a model in PyTorch
                    other.options = other.options | {"proposals": number}
                elif number <= self.own:
                    other.proposals = number  # type: ignore[attr-defined]
                else:
                    continue  # a file has no more
                self._take(float(number), other)
            return
        multiple = getattr(getattr(runtime, "file", None), "multiple", runtime.input.multiple)
        self.own = input_value(runtime.input)
        for factor in FACTORS["size"]:
            other = copy(runtime)
            other.input = resized_input(runtime.input, factor, multiple)
            self._take(input_value(other.input), other)

    def _take(self, value: float, runtime: Any) -> None:
        if all(value != variant.value for variant in self.all):
            other = copy(self.predictor)
            other.runtime = runtime
            self.all.append(Variant(value, other, Figures(self.categories)))


def input_value(config: InputConfig) -> float:
    """What stands on the axis of a sweep of sizes, see `Variant`."""
    return float(max(config.size)) if config.mode == "fit" else config.scale


def resized_input(config: InputConfig, factor: float, multiple: int) -> InputConfig:
    """An input whose sides are so many times as long, on the network's grid.

    Args:
        config: of the model.
        factor: above 0.
        multiple: of the sides; those of 32k + 1 pixels stay so.
    """
    if config.mode != "fit":
        return replace(config, scale=config.scale * factor)
    height, width = (
        max(round((side - side % multiple) * factor / multiple), 1) * multiple + side % multiple
        for side in config.size
    )
    return replace(config, size=(height, width))
