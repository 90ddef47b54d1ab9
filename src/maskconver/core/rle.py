"""COCO's run-length codes of all segments of an id map in one pass."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .segments import run_starts


def encode_segments(
    ids: NDArray[np.integer], segment_ids: NDArray[np.integer], *, compress: bool = False
) -> list[tuple[dict[str, Any], int]]:
    """COCO's run-length code (column by column) and the area of segments.

    Args:
        ids: (H, W), 0 = void.
        segment_ids: (S,) those to encode.
        compress: counts as the text that `pycocotools` writes, not as numbers.

    Returns:
        S pairs: `{"size": [H, W], "counts": [...]}`, and pixels.
    """
    flat = ids.T.ravel()
    starts = run_starts(flat)
    lengths, owners = np.diff(starts, append=flat.size), flat[starts]
    order = np.argsort(owners, kind="stable")
    low, high = (np.searchsorted(owners[order], segment_ids, side) for side in ("left", "right"))
    answer = []
    for first, last in zip(low.tolist(), high.tolist()):  # a list of counts each, which no array can hold
        runs = order[first:last]
        edges = np.empty(2 * len(runs) + 2, np.int64)
        edges[0], edges[-1] = 0, flat.size
        edges[1:-1:2], edges[2:-1:2] = starts[runs], starts[runs] + lengths[runs]
        counts = np.diff(edges)
        code = {"size": list(ids.shape), "counts": _text(counts) if compress else counts.tolist()}
        answer.append((code, int(lengths[runs].sum())))
    return answer


def _text(counts: NDArray[np.int64]) -> str:
    """Counts as COCO's text: differences to the last but one, 5 bits a character, lowest first."""
    values = counts.copy()
    values[3:] -= counts[1:-2]
    shifted = values[:, None] >> np.arange(0, 35, 5)
    digits = shifted & 31
    rest = np.concatenate([shifted[:, 1:], shifted[:, -1:] >> 5], 1)
    more = np.where(digits & 16, rest != -1, rest != 0)
    written = np.concatenate([np.ones((len(values), 1), bool), np.logical_and.accumulate(more, 1)[:, :-1]], 1)
    return (digits + 32 * more + 48)[written].astype(np.uint8).tobytes().decode("ascii")
