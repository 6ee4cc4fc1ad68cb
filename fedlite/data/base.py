"""What a data set is: samples, labels, and the client each sample naturally belongs to."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlite.errors import DataError
from fedlite.seeds import generator

Samples = NDArray[Any]
Labels = NDArray[np.int64]

TEST_SHARE = 0.2


@dataclass(frozen=True, eq=False)
class Dataset:
    """Samples ready for a model.

    `x`: images float32 (n, channels, height, width) in [0, 1]; sensors float32 (n, channels, time),
    standardised; tables float32 (n, features); text int64 (n, length).
    `y`: int64 (n,), each in [0, num_classes).
    `keys`: the natural client of each sample (writer, person, role), int64 (n,), or None.
    """

    x: Samples
    y: Labels
    num_classes: int
    name: str
    keys: Labels | None = None

    def __len__(self) -> int:
        return len(self.y)

    def take(self, indices: Labels) -> "Dataset":
        """The samples at these indices, in this order."""
        keys = None if self.keys is None else self.keys[indices]
        return replace(self, x=self.x[indices], y=self.y[indices], keys=keys)


@dataclass(frozen=True, eq=False)
class Stored:
    """A data set as its file holds it, in narrow integers; `widen` makes a model's input of its `x`.

    A part is cut out before it is widened, so that a device never holds the whole set in float32.
    """

    x: Samples
    y: Labels
    num_classes: int
    name: str
    keys: Labels | None
    widen: Callable[[Samples], Samples]

    def __len__(self) -> int:
        return len(self.y)

    def take(self, indices: Labels) -> "Stored":
        """The samples at these indices, in this order, still narrow."""
        keys = None if self.keys is None else self.keys[indices]
        return replace(self, x=self.x[indices], y=self.y[indices], keys=keys)

    def open(self) -> Dataset:
        """Widen to what a model takes."""
        x = np.ascontiguousarray(self.widen(self.x))
        return Dataset(x, self.y, self.num_classes, self.name, self.keys)


def as_is(x: Samples) -> Samples:
    """Already what a model takes."""
    return x


def unit_range(x: Samples) -> Samples:
    """uint8 0 … 255 → float32 0 … 1."""
    return np.divide(x, np.float32(255), dtype=np.float32, order="C")


def check_labels(y: NDArray[Any], count: int, num_classes: int | None, where: str) -> Labels:
    """`y` as int64 (count,); DataError unless whole numbers in [0, num_classes)."""
    if y.ndim != 1 or len(y) != count or count == 0:
        raise DataError(f"{where}: labels have shape {y.shape}, ({count},) wanted, with at least one")
    if y.dtype.kind not in "iu":
        raise DataError(f"{where}: labels are {y.dtype}, integers wanted")
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= (num_classes if num_classes is not None else high + 1):
        raise DataError(f"{where}: labels run from {low} to {high}, classes from 0 to {num_classes or high}")
    return y.astype(np.int64)


def holdout(y: Labels, split: str) -> Labels:
    """Sorted indices of a fixed split: of every class one fifth (rounded) is test, the rest train.

    The same labels always give the same split; classes of one or two samples are all train.
    """
    rng = generator(0, "data", "holdout")
    test = np.zeros(len(y), dtype=np.bool_)
    for label in np.unique(y):
        members = rng.permutation(np.flatnonzero(y == label))
        test[members[: round(TEST_SHARE * len(members))]] = True
    return np.flatnonzero(test if split == "test" else ~test)
