"""What the streaming metrics share: a table of sums over images that several processes can add up."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.categories import Categories
from ..errors import DataError


class Counts:
    """Sums over images, a row a label.

    Args:
        categories: the label set, C of them.
        columns: what is summed for each label.
        dtype: int64, or float64 where fractions are summed.
    """

    def __init__(self, categories: Categories, columns: int, dtype: type = np.int64) -> None:
        self.categories = categories
        self._counts: NDArray[Any] = np.zeros((len(categories), columns), dtype)

    def reset(self) -> None:
        """Forget all images."""
        self._counts[:] = 0

    @property
    def state(self) -> NDArray[Any]:
        """(C, columns), see the class; states of several processes are added up."""
        return self._counts.copy()

    def merge_state(self, state: NDArray[Any]) -> None:
        """Add the state of another process or part.

        Raises:
            DataError: the state is of another label set.
        """
        if np.shape(state) != self._counts.shape:
            raise DataError(
                f"a state of shape {np.shape(state)} does not fit {len(self.categories)} categories"
            )
        self._counts += state
