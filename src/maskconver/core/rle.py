"""COCO's run lengths: columns from the left, each from the top, runs of 0 and 1 in turn, beginning with 0.

The compressed form writes each length (from the fourth on, its difference to the one two before) in groups
of five bits, low ones first, as characters from `0`; a sixth bit says that more follow (`maskApi.c` of
pycocotools).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from .files import MAX_PIXELS
from .segments import run_starts


def encode_segments(
    ids: NDArray[np.integer], segment_ids: NDArray[np.integer], *, compress: bool = False
) -> list[tuple[dict[str, Any], int]]:
    """The code and the area of segments, all in one pass.

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
    """The compressed form."""
    values = counts.copy()
    values[3:] -= counts[1:-2]
    shifted = values[:, None] >> np.arange(0, 35, 5)
    digits = shifted & 31
    rest = np.concatenate([shifted[:, 1:], shifted[:, -1:] >> 5], 1)
    more = np.where(digits & 16, rest != -1, rest != 0)
    written = np.concatenate([np.ones((len(values), 1), bool), np.logical_and.accumulate(more, 1)[:, :-1]], 1)
    return (digits + 32 * more + 48)[written].astype(np.uint8).tobytes().decode("ascii")


def decode(rle: Mapping[str, Any]) -> NDArray[np.bool_]:
    """The mask that run lengths stand for.

    Args:
        rle: `size` (height, width) and `counts`, a list of lengths or the compressed text.

    Returns:
        (height, width) bool.

    Raises:
        DataError: `bad-rle`: no such keys, a broken text, negative lengths, or a sum that is not the size.
    """
    try:
        height, width = (int(v) for v in rle["size"])
        counts = rle["counts"]
        if isinstance(counts, str | bytes):
            lengths = _lengths(counts.encode() if isinstance(counts, str) else counts)
        else:
            lengths = np.array(counts, np.int64)
    except (KeyError, TypeError, ValueError, OverflowError):
        raise DataError("the run lengths cannot be read", kind="bad-rle") from None
    if min(height, width) < 1 or height * width > MAX_PIXELS:
        raise DataError(f"run lengths of an image of {width}×{height} pixels", kind="bad-rle")
    area = height * width
    possible = lengths.ndim == 1 and not ((lengths < 0) | (lengths > area)).any()  # so that no sum overflows
    if not possible or int(lengths.sum()) != area:
        what = f"the run lengths do not add up to the {area} pixels of {width}×{height}"
        raise DataError(what, kind="bad-rle")
    values = np.arange(len(lengths)) % 2 == 1
    return np.repeat(values, lengths).reshape(width, height).T


def _lengths(text: bytes) -> NDArray[np.int64]:
    """The lengths that a compressed text holds."""
    codes = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    if not len(codes):
        return np.zeros(0, np.int64)
    if codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        raise ValueError("not the compressed form")
    first = np.flatnonzero(np.concatenate([[True], (codes[:-1] & 32) == 0]))
    place = np.arange(len(codes)) - np.repeat(first, np.diff(first, append=len(codes)))
    if place.max() > 11:
        raise ValueError("a length of more than 60 bits")
    values = np.add.reduceat((codes & 31) << 5 * place, first)
    last = np.append(first[1:], len(codes)) - 1
    values -= np.where(codes[last] & 16, np.int64(1) << 5 * (place[last] + 1), 0)
    # From the fourth value on, each is a difference to the one two before it.
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values
