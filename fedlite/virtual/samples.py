"""A client's samples: arrays of its own, or places in arrays that many clients share and nobody need copy."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedlite.errors import DataError

Samples = tuple[NDArray[Any], NDArray[np.int64]]  # x, y


class Taken(NamedTuple):
    """A client's samples by themselves; `teacher` holds a teacher's logits for each, where there is a teacher."""

    x: NDArray[Any]
    y: NDArray[np.int64]
    teacher: NDArray[np.float32] | None = None


class Picked(NamedTuple):
    """The samples x[chosen], y[chosen], and teacher[chosen] where there is a teacher; `chosen` counts from 0."""

    x: NDArray[Any]
    y: NDArray[np.int64]
    chosen: NDArray[np.int64]
    teacher: NDArray[np.float32] | None = None

    def taken(self) -> Taken:
        """They themselves, copied. DataError if there are none at some of the places."""
        if len(self.chosen) and not 0 <= self.chosen.min() <= self.chosen.max() < len(self.x) == len(self.y):
            raise DataError(
                f"places run to {self.chosen.max()}; there are {len(self.x)} examples, {len(self.y)} labels"
            )
        lessons = self.teacher[self.chosen] if self.teacher is not None else None
        return Taken(self.x[self.chosen], self.y[self.chosen], lessons)
