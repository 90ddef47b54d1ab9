"""The competition for pixels on a GPU: the plain one, where the masks already lie there."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..core.config import PostprocessConfig
from ..core.resize import Taps, interpolate
from .reference import SIXTH, wins_share

# Interpolated values a band: 32 MB as float32, of which at most three are held at a time.
BAND_VALUES = 1 << 23


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
        config: PostprocessConfig,
    ) -> None:
        n, device, logits = len(scores), logits.device, logits.float()
        rows, columns = (_on(t, device) for t in taps)
        weights = torch.from_numpy(scores).to(device)[:, None, None]
        index = torch.arange(n, dtype=torch.int32, device=device)[:, None, None]
        winner = torch.empty(len(taps[0]), len(taps[1]), dtype=torch.int32, device=device)
        own_area = torch.zeros(n, dtype=torch.long, device=device)
        band = max(BAND_VALUES // (winner.shape[1] * n), 1)
        for top in range(0, len(winner), band):
            part = slice(top, top + band)
            masks = _read(_read(logits, [t[part] for t in rows], 1), columns, 2)
            masks = masks.add_(3).clamp_(0, 6).mul_(SIXTH) if config.hard_sigmoid else masks.sigmoid_()
            own_area += (masks > 0.5).sum((1, 2), dtype=torch.int32)  # of booleans a copy is made as this
            if config.mask_threshold:
                masks.masked_fill_(masks <= config.mask_threshold, 0)
            masks *= weights
            best = masks.amax(0)
            first = index.where(masks == best, n).amin(0)  # argmax does not promise the first of equals
            winner[part] = first.where(best > 0, n) if config.mask_threshold else first
        self.winner = winner
        self.own_area = own_area.cpu().numpy()
        self.visible: NDArray[np.int64] = winner.flatten().bincount(minlength=n + 1)[:n].cpu().numpy()

    def covers(self, share: float, asked: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """As `PlainCompetition.covers`."""
        return asked & wins_share(self.visible, self.own_area, share)

    def paint(self, numbers: NDArray[np.int32]) -> NDArray[np.int32]:
        """As `PlainCompetition.paint`."""
        table = torch.from_numpy(numbers).to(self.winner.device)
        painted = table.index_select(0, self.winner.flatten())  # indexing would copy the winners as int64
        ids: NDArray[np.int32] = painted.view_as(self.winner).cpu().numpy()
        return ids


def _on(taps: Taps, device: torch.device) -> list[Tensor]:
    """Low and high index, weight, and whether the output lies beyond the image; of an axis, on the device."""
    return [torch.from_numpy(a).to(device) for a in (taps.low, taps.high, taps.weight, ~taps.inside)]


def _read(values: Tensor, taps: list[Tensor], axis: int) -> Tensor:
    """One axis read at the taps: `low + weight · (high - low)`, 0 beyond the image."""
    low_index, high_index, weight, beyond = taps
    shape = [-1 if i == axis else 1 for i in range(3)]
    low, high = values.index_select(axis, low_index), values.index_select(axis, high_index)
    return interpolate(low, high, weight.view(shape)).masked_fill_(beyond.view(shape), 0)
