"""The competition for pixels on a GPU: the plain one, where the masks already lie there."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..config import MergeConfig
from ..resize import Taps
from .reference import wins_share

BAND_VALUES = 1 << 25  # interpolated values held at a time, 128 MB


class TensorCompetition:
    """The contract is `PlainCompetition`'s, with the logits a tensor on any device.

    The winners are those of the plain competition except where the two best bids differ by less than the
    rounding of the exponential, 1e-6 relative. Only counts and the painted map leave the device.
    """

    def __init__(
        self,
        scores: NDArray[np.float32],
        logits: Tensor,
        taps: tuple[Taps, Taps],
        config: MergeConfig,
    ) -> None:
        rows, columns = taps
        n, device = len(scores), logits.device
        weights = torch.from_numpy(scores).to(device)[:, None, None]
        index = torch.arange(n, device=device)[:, None, None]
        winner = torch.empty(len(rows), len(columns), dtype=torch.int32, device=device)
        own_area = torch.zeros(n, dtype=torch.long, device=device)
        band = max(BAND_VALUES // (len(columns) * n), 1)
        for top in range(0, len(rows), band):
            part = slice(top, top + band)
            masks = _read(_read(logits.float(), rows[part], 1), columns, 2)
            masks = (masks + 3).clamp(0, 6) * 0.16667 if config.hard_sigmoid else masks.sigmoid()
            own_area += (masks > 0.5).sum((1, 2))
            if config.pixel_threshold:
                masks = masks.where(masks > config.pixel_threshold, 0)
            masks *= weights
            best = masks.amax(0)
            first = index.where(masks == best, n).amin(0)  # argmax does not promise the first of equals
            winner[part] = first.where(best > 0, n) if config.pixel_threshold else first
        self.winner = winner
        self.own_area = own_area.cpu().numpy()
        self.visible: NDArray[np.int64] = winner.flatten().bincount(minlength=n + 1)[:n].cpu().numpy()

    def covers(self, share: float, asked: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """As `PlainCompetition.covers`."""
        return asked & wins_share(self.visible, self.own_area, share)

    def paint(self, numbers: NDArray[np.int32]) -> NDArray[np.int32]:
        """As `PlainCompetition.paint`."""
        painted: NDArray[np.int32] = (
            torch.from_numpy(numbers).to(self.winner.device)[self.winner].cpu().numpy()
        )
        return painted


def _read(values: Tensor, taps: Taps, axis: int) -> Tensor:
    """One axis read at the taps: `low + weight · (high - low)`, 0 beyond the image."""
    low_index, high_index, weight, inside = (
        torch.from_numpy(a).to(values.device) for a in (taps.low, taps.high, taps.weight, taps.inside)
    )
    shape = [-1 if i == axis else 1 for i in range(3)]
    low, high = values.index_select(axis, low_index), values.index_select(axis, high_index)
    read = low + (high - low) * weight.view(shape)
    return read if bool(taps.inside.all()) else read.where(inside.view(shape), 0)
