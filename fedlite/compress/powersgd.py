"""Low rank as a filter: a matrix of an update travels as two thin ones, found by one step of power iteration.

The step begins from the factor that was found last time, so that over rounds it converges to the leading singular
vectors. (Vogels et al. 2019, Alg. 1) What is sent has the scale of the update: the left factor's columns are as large
as the right's, whatever their length means nothing, and what travels beside them can share their step.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fedlite.compress.layout import Layout, Tensor
from fedlite.compress.slots import Chance, Filtered, Memory
from fedlite.errors import SettingsError
from fedlite.types import Array

Doubles = NDArray[np.float64]

LARGEST_RANK = 64
_LARGEST = float(np.finfo(np.float32).max)
_AT_ONCE = 1 << 16  # weights of a product


@dataclass(frozen=True)
class LowRank:
    """Filter: each matrix whose factors of this `rank` (1 … 64) are fewer numbers than its live weights, as factors.

    Factors are left (rows, rank) and right (columns, rank). A weight is √rows · Σ left[:, i] / |left[:, i]| ·
    right[:, i]. Remembers the right factor. Other tensors are untouched.
    """

    rank: int = 4
    note_size = 0

    def __post_init__(self) -> None:
        if not (isinstance(self.rank, int) and 1 <= self.rank <= LARGEST_RANK):
            raise SettingsError(f"rank {self.rank} is not a whole number in 1 … {LARGEST_RANK}")

    @property
    def key(self) -> str:
        """With the rank."""
        return f"lowrank:{self.rank}"

    def inner(self, layout: Layout) -> Layout:
        """Two tensors in the place of each matrix that is factored."""
        tensors: list[Tensor] = []
        for tensor in layout.tensors:
            tensors += self._factors(tensor) if self._factored(tensor) else [tensor]
        return replace(layout, tensors=tuple(tensors))

    def memory(self, layout: Layout) -> Mapping[str, tuple[int, ...]]:
        """The right factors."""
        return {_name(t): (t.columns, self.rank) for t in layout.tensors if self._factored(t)}

    def apply(self, weights: Array, layout: Layout, chance: Chance, memory: Memory) -> Filtered:
        """The factors."""
        parts, after = [np.zeros(0, np.float32)], dict[str, Array]()
        for tensor, span in zip(layout.tensors, layout.spans, strict=True):
            part = weights[span]
            if self._factored(tensor):
                *factors, kept = self._split(part, tensor, chance, memory.get(_name(tensor)))
                parts += [factor.reshape(-1) for factor in factors]
                after[_name(tensor)] = kept
            else:
                parts.append(part)
        return Filtered(np.concatenate(parts), memory=after)

    def undo(self, weights: Array, layout: Layout, note: bytes) -> Array:
        """The products."""
        parts, place = [np.zeros(0, np.float32)], 0
        for tensor in layout.tensors:
            if not self._factored(tensor):
                parts.append(weights[place : place + tensor.live])
                place += tensor.live
                continue
            middle = place + tensor.rows * self.rank
            end = middle + tensor.columns * self.rank
            left, right = (weights[a:b].reshape(-1, self.rank) for a, b in ((place, middle), (middle, end)))
            product = np.concatenate(list(_products(left, right))).reshape(-1)
            parts.append(product if tensor.mask is None else product[tensor.places])
            place = end
        return np.concatenate(parts)

    def _factored(self, tensor: Tensor) -> bool:
        return tensor.is_matrix and self.rank * (tensor.rows + tensor.columns) < tensor.live

    def _factors(self, tensor: Tensor) -> list[Tensor]:
        return [
            Tensor((tensor.rows, self.rank), name=f"{tensor.name}.left"),
            Tensor((tensor.columns, self.rank), name=f"{tensor.name}.right"),
        ]

    def _split(
        self, part: Array, tensor: Tensor, chance: Chance, before: Array | None
    ) -> tuple[Array, Array, Array]:
        """(left, right, what to begin from next time)."""
        shape = (tensor.columns, self.rank)
        warm = before is not None and before.shape == shape and bool(before.any())
        if not warm and chance is None:
            raise SettingsError("a low rank codec needs a generator to begin from")
        peak = np.abs(part).max()
        if peak == 0:
            zeros = np.zeros((tensor.rows, self.rank), np.float32), np.zeros(shape, np.float32)
            return *zeros, before if warm and before is not None else zeros[1]
        matrix = np.zeros((tensor.rows, tensor.columns), np.float32)
        matrix.reshape(-1)[tensor.places] = part / peak
        if warm and before is not None:
            begin = before
        else:
            assert chance is not None
            begin = chance.standard_normal(shape, np.float32)
        left = np.linalg.qr((matrix @ begin).astype(np.float64))[0]
        right = matrix.T @ left.astype(np.float32)
        return (*_scaled(left, right.astype(np.float64) * float(peak)), right)


def _scaled(left: Doubles, right: Doubles) -> tuple[Array, Array]:
    """As they are sent: right / √rows, and left's columns with the same root mean square."""
    right = right / len(left) ** 0.5
    size = np.sqrt((right**2).mean(axis=0))
    left = left * len(left) ** 0.5 * size
    return _fitting(left), _fitting(right)


def _fitting(values: Doubles) -> Array:
    return np.clip(values, -_LARGEST, _LARGEST).astype(np.float32)


def _products(left: Array, right: Array) -> Iterator[Array]:
    """The weights, some rows at a time; every sum in order, so that it is the same everywhere."""
    wide = left.astype(np.float64)
    length = np.sqrt(np.cumsum(wide**2, axis=0)[-1])
    wide = wide * len(left) ** 0.5 / np.where(length > 0, length, 1)
    columns = np.ascontiguousarray(right.T, np.float64)
    step = max(_AT_ONCE // len(right), 1)
    for begin in range(0, len(left), step):
        some = wide[begin : begin + step]
        total = some[:, :1] * columns[0]
        for place in range(1, len(columns)):
            total += some[:, place : place + 1] * columns[place]
        yield _fitting(total)


def _name(tensor: Tensor) -> str:
    return f"~lowrank.{tensor.name}"
