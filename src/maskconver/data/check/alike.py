"""Images that are nearly the same: fingerprints that survive another size, format or brightness."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 16
WORDS = SIDE * SIDE // 64
DISTANCE = 16  # of 256 bits
_FLAT = 2.0  # grey levels: images with a smaller deviation have no fingerprint
_PAIRS = 1 << 21  # compared at a time


def fingerprint(pixels: NDArray[np.uint8]) -> bytes:
    """Whether each cell of a 16×17 grid is brighter than its left neighbour (a difference hash).

    Args:
        pixels: H×W×C uint8; the first three channels count.

    Returns:
        32 bytes; none for an image without contrast.
    """
    image = Image.fromarray(pixels[..., :3] if pixels.shape[2] > 2 else pixels[..., 0]).convert("L")
    small = np.asarray(image.resize((SIDE + 1, SIDE), Image.Resampling.BOX), np.float32)
    if small.std() < _FLAT:
        return b""
    return np.packbits(small[:, 1:] > small[:, :-1]).tobytes()


def alike(first: Sequence[bytes], second: Sequence[bytes]) -> list[tuple[int, int, int]]:
    """Pairs of fingerprints that differ in few bits.

    Args:
        first, second: of two splits; empty ones are like no other.

    Returns:
        (index in the first, index in the second, bits that differ); for each of the second its nearest.
    """
    rows, columns = ([i for i, p in enumerate(prints) if p] for prints in (first, second))
    if not rows or not columns:
        return []
    a = np.frombuffer(b"".join(first[i] for i in rows), np.uint64).reshape(-1, WORDS)
    b = np.frombuffer(b"".join(second[i] for i in columns), np.uint64).reshape(-1, WORDS)
    found = []
    step = max(_PAIRS // len(a), 1)
    for start in range(0, len(b), step):
        part = b[start : start + step]
        y, x = np.nonzero(_bits(part[:, None, 0] ^ a[None, :, 0]) <= DISTANCE)
        distance = _bits(part[y] ^ a[x]).reshape(len(y), WORDS).sum(1)
        near = distance <= DISTANCE
        order = np.lexsort((distance[near], y[near]))
        owner, index = np.unique(y[near][order], return_index=True)
        for k, i in zip(owner.tolist(), order[index].tolist()):
            found.append((rows[int(x[near][i])], columns[start + k], int(distance[near][i])))
    return found


_TABLE = np.array([bin(v).count("1") for v in range(256)], np.uint8)


def _bits(words: NDArray[Any]) -> NDArray[np.integer]:
    """How many bits are set in each word."""
    if hasattr(np, "bitwise_count"):
        return np.bitwise_count(words)
    return _TABLE[np.ascontiguousarray(words).view(np.uint8)].reshape(*words.shape, 8).sum(-1)
