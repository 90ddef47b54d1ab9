"""What 8-bit files of all formats have in common: the pictures for their ranges, and what stays in float."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.preprocess import prepare
from ..errors import ConfigError
from ..inference.exported import Exported, Precision
from ..inference.file_runtime import as_fed

LIMIT = 32  # pictures; each takes a second or more
# The last convolution of each head stays in float32, and all that follows: it costs little, and in 8 bits the
# positions would lose the masks. Everything before calculates in 8 bits.
FLOAT_LAYER = re.compile(r"_head\.out\.")


def check_calibration(quantize: Precision, images: Sequence[Any] | None) -> None:
    """Refuses 8 bits without pictures, and pictures without 8 bits.

    Raises:
        ConfigError: one without the other.
    """
    if quantize == "int8" and not images:
        raise ConfigError("int8 needs pictures such as the file will see: give --calibrate DIR")
    if quantize != "int8" and images:
        raise ConfigError(
            f"--quantize {quantize} needs no pictures; leave out --calibrate or say --quantize int8"
        )


def spread(items: Sequence[Any], limit: int = LIMIT) -> list[Any]:
    """At most `limit` of them, from all over the list."""
    return [items[i * len(items) // limit] for i in range(limit)] if len(items) > limit else [*items]


def compared_on(images: Sequence[Any] | None) -> list[Any] | None:
    """A few of them for comparing the file with its model; None where there are none."""
    return spread(images, 8) if images else None


def calibration_feeds(
    images: Sequence[NDArray[np.uint8]], file: Exported, channels_last: bool
) -> Iterator[NDArray[Any]]:
    """Each picture as the file takes it, one at a time."""
    for image in images:
        canvas, _ = prepare(image, file.input)
        yield as_fed(canvas[None], file, channels_last)
