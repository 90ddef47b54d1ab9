"""Small annotated canvases as the loader hands them on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

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
        targets = assign_targets(ids, segments, IS_THING, config=config or TargetConfig())
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


def total(terms: dict[str, Tensor]) -> Tensor:
    """The sum of the terms of a loss."""
    return torch.stack(list(terms.values())).sum()


def ids(value: int = 0) -> NDArray[np.int32]:
    """A map of one id."""
    return np.full((64, 64), value, np.int32)


def stripes(count: int, first: int = 1) -> NDArray[np.int32]:
    """So many segments one below the other."""
    return np.repeat(np.arange(first, first + count, dtype=np.int32), 64 // count)[:, None].repeat(64, 1)


def specks() -> NDArray[np.int32]:
    """One-pixel things on a ground; most lie between the cells of a coarse loss."""
    result = ids(11)
    for number, (y, x) in enumerate([(0, 0), (5, 7), (63, 63), (30, 31), (8, 8)], 1):
        result[y, x] = number
    return result


THINGS = [(n, n % 3) for n in range(1, 17)]
# What a data set may hold, and no loss may stumble over.
ANNOTATIONS = {
    "two things on two grounds": squares(),
    "everything void": (ids(), table((1, 0))),
    "no segments": (ids(), table()),
    "everything crowd": (ids(4), table((4, 1, True))),
    "only things": (stripes(4), table(*THINGS[:4])),
    "more masks than queries": (stripes(16), table(*THINGS)),
    "only stuff": (stripes(2, 11), table((11, 3), (12, 4))),
    "the same stuff in two segments": (stripes(2), table((1, 3), (2, 3))),
    "stuff in several segments": (specks(), table(*((n, 3) for n in range(1, 6)), (11, 3))),
    "segments without pixels": (ids(1), table((1, 0), (2, 1), (3, 3))),
    "one-pixel segments": (specks(), table(*THINGS[:5], (11, 3))),
    "one class, one mask": (ids(1), table((1, 2))),
    "largest id": (ids(2**24 - 1), table((2**24 - 1, 2))),
}
