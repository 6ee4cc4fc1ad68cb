"""Many clients' updates as rows of one matrix: what the simulator trains, codes and adds without a loop over clients.

A row is the model's tensors, each flattened row-major, one after another in the model's own order.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from fedlite.types import Array, Params, is_statistic

Float = TypeVar("Float", np.float32, np.float64)


@dataclass(frozen=True, eq=False)
class Trained:
    """A block of clients after local training, in the order they were given.

    `updates` is (clients, floats of a row), local minus global; `loss` and `accuracy` are as `TrainResult`'s,
    `counts` the samples of each. `failed` says why, by place in the block; such a client's row means nothing.
    """

    updates: Array
    loss: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    counts: NDArray[np.int64]
    failed: dict[int, str] = field(default_factory=dict)

    @classmethod
    def blank(cls, clients: int, width: int) -> "Trained":
        """Room for `clients` rows, all zeros."""
        rows: Array = np.zeros((clients, width), np.float32)
        return cls(rows, np.zeros(clients), np.zeros(clients), np.zeros(clients, np.int64))

    def put(self, places: Sequence[int], done: "Trained") -> None:
        """Set the clients at these places to those of `done`, in order."""
        for mine, theirs in (
            (self.updates, done.updates),
            (self.loss, done.loss),
            (self.accuracy, done.accuracy),
            (self.counts, done.counts),
        ):
            mine[list(places)] = theirs
        self.failed.update({places[place]: why for place, why in done.failed.items()})


def spans(like: Params) -> Iterator[tuple[str, slice]]:
    """Where each tensor lies in a row."""
    start = 0
    for name, value in like.items():
        yield name, slice(start, start + value.size)
        start += value.size


def width(like: Params) -> int:
    """Floats in a row."""
    return sum(value.size for value in like.values())


def to_row(values: Params) -> Array:
    """The tensors as one row."""
    return np.concatenate([np.zeros(0, np.float32), *(value.ravel() for value in values.values())])


def from_row(row: NDArray[Float], like: Params) -> dict[str, NDArray[Float]]:
    """The row as tensors: views of it."""
    return {name: row[span].reshape(like[name].shape) for name, span in spans(like)}


def learned(like: Params) -> NDArray[np.bool_]:
    """Which floats of a row are weights rather than statistics."""
    found = np.ones(width(like), np.bool_)
    for name, span in spans(like):
        found[span] = not is_statistic(name)
    return found
