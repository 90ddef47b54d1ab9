"""The competition for pixels at the masks' own stride: approximate, for previews."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..core.config import PostprocessConfig
from ..core.resize import Taps
from .reference import probabilities, wins_share


class CoarseCompetition:
    """Each cell of the masks has one winner, and every output pixel takes that of its nearest cell.

    Arguments and attributes are those of `PlainCompetition`; areas are counted in output pixels.
    """

    def __init__(
        self,
        scores: NDArray[np.float32],
        logits: NDArray[np.float32],
        taps: tuple[Taps, Taps],
        config: PostprocessConfig,
    ) -> None:
        n, height, width = logits.shape
        self.rows, self.columns = (_nearest(t) for t in taps)
        masks = probabilities(logits.copy(), config.hard_sigmoid)
        pixels = np.bincount(self.rows, minlength=height)[:, None] * np.bincount(
            self.columns, minlength=width
        )
        self.own_area = (masks > 0.5).reshape(n, -1) @ pixels.ravel()
        if config.mask_threshold:
            masks[masks <= np.float32(config.mask_threshold)] = 0
        masks *= scores[:, None, None]
        self.winner = masks.argmax(0)
        if config.mask_threshold:
            self.winner[masks.max(0) == 0] = n
        visible = np.bincount(self.winner.ravel(), pixels.ravel(), minlength=n + 1)[:-1]
        self.visible: NDArray[np.int64] = visible.astype(np.int64)

    def covers(self, share: float, asked: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """As `PlainCompetition.covers`, areas taken at the masks' stride."""
        return asked & wins_share(self.visible, self.own_area, share)

    def paint(self, numbers: NDArray[np.int32]) -> NDArray[np.int32]:
        """As `PlainCompetition.paint`."""
        painted: NDArray[np.int32] = numbers[self.winner][self.rows[:, None], self.columns]
        return painted


def _nearest(taps: Taps) -> NDArray[np.int64]:
    return np.where(taps.weight < 0.5, taps.low, taps.high)
