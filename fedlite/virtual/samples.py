"""A client's samples: arrays of its own, or places in arrays that many clients share and nobody need copy."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedlite.errors import DataError

Samples = tuple[NDArray[Any], NDArray[np.int64]]  # x, y


class Picked(NamedTuple):
    """The samples x[chosen], y[chosen]; `chosen` counts from 0."""

    x: NDArray[Any]
    y: NDArray[np.int64]
    chosen: NDArray[np.int64]

    def taken(self) -> Samples:
        """They themselves, copied. DataError if there are none at some of the places."""
        if len(self.chosen) and not 0 <= self.chosen.min() <= self.chosen.max() < len(self.x) == len(self.y):
            raise DataError(
                f"places run to {self.chosen.max()}; there are {len(self.x)} examples, {len(self.y)} labels"
            )
        return self.x[self.chosen], self.y[self.chosen]
