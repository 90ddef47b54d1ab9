"""Small annotated canvases as the loader hands them on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from maskconver.core.segments import SegmentTable
from maskconver.models.batch import Batch
from maskconver.training.augment.example import Example
from maskconver.training.loader import collate
from maskconver.training.targets import TargetConfig, assign_targets

IS_THING = np.array([True, True, True, False, False])  # labels 0…4


def table(*rows: tuple[int, int] | tuple[int, int, bool]) -> SegmentTable:
    """A segment table of (id, label[, crowd]) rows."""
    return SegmentTable(
        np.array([r[0] for r in rows], np.int32),
        np.array([r[1] for r in rows], np.int64),
        np.array([len(r) > 2 and bool(r[2]) for r in rows], bool),
        np.zeros(len(rows), np.int64),
    )


def batch_of(
    annotations: Sequence[tuple[NDArray[np.int32], SegmentTable]],
    config: TargetConfig | None = None,
    seed: int = 0,
) -> Batch:
    """A batch of noise with these id maps (all of one size, without padding)."""
    rng = np.random.default_rng(seed)
    examples = []
    for number, (ids, segments) in enumerate(annotations):
        image = rng.standard_normal((3, *ids.shape)).astype(np.float32)
        targets = assign_targets(ids, segments, IS_THING, config or TargetConfig())
        examples.append(Example(image, targets, number))
    return collate(examples)


def squares(size: int = 64) -> tuple[NDArray[np.int32], SegmentTable]:
    """Two things on two kinds of ground, with a strip of void and one of crowd."""
    ids = np.full((size, size), 11, np.int32)
    ids[size // 2 :] = 12
    ids[size // 8 : size // 3, size // 8 : size // 2] = 1
    ids[size // 2 : size - 8, size // 2 : size - 16] = 70000
    ids[-4:] = 0
    ids[:, -4:] = 9
    return ids, table((1, 0), (70000, 2), (11, 3), (12, 4), (9, 1, True))
