"""Semantic segmentation from scored masks: every pixel gets a class, none is void.

A pixel's score of class c is `Σ_q p_q(c) · m_q`, summed over the proposals q with class probabilities p and
mask probabilities m (MaskFormer, arXiv 2107.06278, section 3.4). kMaX-DeepLab and ReMaX report mIoU this way.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ..core.config import PostprocessConfig
from ..core.proposals import Geometry, Proposals, non_finite_error
from ..core.resize import Taps, lerp
from .kmax import mask_probabilities, resize_steps
from .maskconver import output_taps

BAND_VALUES = 1 << 21  # of all masks at the size of the answer, at a time; bounds the memory


def semantic_maps(
    proposals: Proposals,
    config: PostprocessConfig,
    num_classes: int,
    *,
    output_size: tuple[int, int] | None = None,
) -> list[NDArray[np.int32]]:
    """The class of every pixel of each image of a batch.

    Args:
        proposals: B×N scored masks, NumPy or torch. With `class_logits` the class probabilities are their
            softmax without "no object"; otherwise a proposal's score for its label and 0 for all others.
        config: its rule and `mask_activation` say how logits become mask probabilities; of the rule
            `maskconver`, `class_exponent` how far scores count.
        num_classes: C.
        output_size: (height, width) of the answer; that of the image where left out, of the masks where there
            is no geometry.

    Returns:
        B maps H×W int32 of labels 0…C-1.

    Raises:
        MaskconverError: NaN or infinite scores or logits.
    """
    arrays = proposals.numpy()
    return [
        np.concatenate(
            [
                scores.argmax(0).astype(np.int32)
                for scores in _bands(arrays, i, config, num_classes, output_size)
            ]
        )
        for i in range(len(arrays))
    ]


def semantic_scores(
    proposals: Proposals,
    config: PostprocessConfig,
    num_classes: int,
    *,
    output_size: tuple[int, int] | None = None,
) -> list[NDArray[np.float32]]:
    """The class scores of every pixel, C×H×W float32 an image; arguments as of `semantic_maps`."""
    arrays = proposals.numpy()
    return [
        np.concatenate(list(_bands(arrays, i, config, num_classes, output_size)), 1)
        for i in range(len(arrays))
    ]


def score_exponent(config: PostprocessConfig) -> float:
    """The power of a proposal's score in the scores of classes: `class_exponent`; 1 for the rule `kmax`."""
    return config.class_exponent if config.rule == "maskconver" else 1.0


def class_probabilities(
    proposals: Proposals, index: int, num_classes: int, *, exponent: float = 1.0
) -> NDArray[np.float32]:
    """(N, C) what each proposal of an image says about the classes; a score counts to the power `exponent`.

    Raises:
        MaskconverError: NaN or infinite scores.
    """
    told = proposals.scores if proposals.class_logits is None else proposals.class_logits
    if not np.isfinite(told[index]).all():
        raise non_finite_error("scores")
    if proposals.class_logits is not None:
        logits = proposals.class_logits[index].astype(np.float32)
        values = np.exp(logits - logits.max(-1, keepdims=True))
        return values[:, :-1] / values.sum(-1, keepdims=True)
    scores, labels = proposals.scores[index], proposals.labels[index]
    weights = scores if exponent == 1 else scores ** np.float32(exponent)
    return (labels[:, None] == np.arange(num_classes)).astype(np.float32) * weights[:, None]


def _bands(
    proposals: Proposals,
    index: int,
    config: PostprocessConfig,
    num_classes: int,
    output_size: tuple[int, int] | None,
) -> Iterator[NDArray[np.float32]]:
    """The class scores a band of rows at a time, C×rows×W."""
    classes = class_probabilities(proposals, index, num_classes, exponent=score_exponent(config))
    for values in mask_bands(proposals, index, config, output_size=output_size):
        yield np.tensordot(classes.T, values, 1)


def mask_bands(
    proposals: Proposals,
    index: int,
    config: PostprocessConfig,
    *,
    output_size: tuple[int, int] | None = None,
) -> Iterator[NDArray[np.float32]]:
    """The mask probabilities of an image's proposals at the size of the answer, N×rows×W at a time.

    Raises:
        MaskconverError: NaN or infinite mask logits.
    """
    logits = proposals.mask_logits[index]
    if not np.isfinite(logits).all():
        raise non_finite_error("mask logits")
    geometry = proposals.geometry[index] if proposals.geometry else None
    rows, columns = _steps(logits, geometry, config, output_size)
    width = len(columns[-1])
    band = max(BAND_VALUES // max(len(logits) * width, 1), 1)
    for step in columns:
        logits = lerp(logits, step, 2)
    first, last = rows[:-1], rows[-1]
    for step in first:
        logits = lerp(logits, step, 1)
    for top in range(0, len(last), band):
        yield mask_probabilities(lerp(logits, last[top : top + band], 1), config)


def _steps(
    logits: NDArray[np.float32],
    geometry: Geometry | None,
    config: PostprocessConfig,
    output_size: tuple[int, int] | None,
) -> tuple[list[Taps], list[Taps]]:
    if config.rule == "kmax":
        return resize_steps(logits, geometry, output_size)
    rows, columns = output_taps((logits.shape[1], logits.shape[2]), geometry, output_size)
    return [rows], [columns]
