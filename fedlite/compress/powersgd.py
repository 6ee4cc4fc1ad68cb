"""Low rank as a filter: a matrix of an update travels as the factors of its largest singular values.

Power iteration finds them, beginning from the factor that was found last time (Vogels et al. 2019, Alg. 1), and a small
decomposition turns them to the singular vectors (Halko, Martinsson & Tropp 2011, Alg. 5.1). With M ≈ U S Vᵀ, what is
sent is U S and V S: an error in any number of these changes M by as much as the same error in a weight that is sent as
it is, so that one step for all is right, the first components get more levels, and those too small for the step vanish
(reverse water-filling: Cover & Thomas 2006, §10.3.3). S does not travel: it is the longer of two decoded columns.
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
LEAST_SIDE = 16  # rows and columns: narrower matrices are hardly of lower rank, nor are pruned ones
ITERATIONS = 2
_LARGEST = float(np.finfo(np.float32).max)
_AT_ONCE = 1 << 16  # weights of a product
_SAFE = 1e30  # of factors: their products are finite


@dataclass(frozen=True)
class LowRank:
    """Filter: each matrix as factors of this `rank` (1 … 64), or less where they would be no fewer numbers.

    Left (rows, rank) is above right (columns, rank) in one tensor. A weight is Σ left[:, i] · right[:, i] / size[i],
    where size is the longer of both columns. Remembers the right factor. Other tensors are untouched: those that are
    narrow, and those of whose weights more than a quarter are pruned.
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
        """One tensor in the place of each matrix that is factored."""
        tensors = [
            Tensor((t.rows + t.columns, rank), name=f"{t.name}.factors") if rank else t
            for t, rank in self._ranks(layout)
        ]
        return replace(layout, tensors=tuple(tensors))

    def memory(self, layout: Layout) -> Mapping[str, tuple[int, ...]]:
        """The right factors."""
        return {_name(tensor): (tensor.columns, rank) for tensor, rank in self._ranks(layout) if rank}

    def apply(self, weights: Array, layout: Layout, chance: Chance, memory: Memory) -> Filtered:
        """The factors."""
        parts, after = [np.zeros(0, np.float32)], dict[str, Array]()
        for (tensor, rank), span in zip(self._ranks(layout), layout.spans, strict=True):
            part = weights[span]
            if rank:
                shape, before = (tensor.columns, rank), memory.get(_name(tensor))
                begin = (
                    before if before is not None and before.shape == shape else np.zeros(shape, np.float32)
                )
                if part.any():
                    begin = _begin(begin, chance)
                left, right = _split(part, tensor, begin)
                parts += [left.reshape(-1), right.reshape(-1)]
                after[_name(tensor)] = right if right.any() else begin
            else:
                parts.append(part)
        return Filtered(np.concatenate(parts), memory=after)

    def undo(self, weights: Array, layout: Layout, note: bytes) -> Array:
        """The products, made where they stay."""
        found, place = np.zeros(layout.weights, np.float32), 0
        for (tensor, rank), span in zip(self._ranks(layout), layout.spans, strict=True):
            size = rank * (tensor.rows + tensor.columns) if rank else tensor.live
            part = weights[place : place + size]
            place += size
            if not rank:
                found[span] = part
                continue
            left, right = np.split(part.reshape(-1, rank), [tensor.rows])
            if tensor.mask is None:
                _add_products(found[span].reshape(tensor.rows, tensor.columns), left, right)
            else:
                product = np.zeros((tensor.rows, tensor.columns), np.float32)
                _add_products(product, left, right)
                found[span] = product.reshape(-1)[tensor.places]
        return found

    def _ranks(self, layout: Layout) -> Iterator[tuple[Tensor, int]]:
        """Each tensor and the rank of its factors; 0 where it has none."""
        for tensor in layout.tensors:
            narrow = min(tensor.rows, tensor.columns) < LEAST_SIDE if tensor.is_matrix else True
            if not narrow and 4 * tensor.live >= 3 * tensor.rows * tensor.columns:
                yield tensor, min(self.rank, (tensor.live - 1) // (tensor.rows + tensor.columns))
            else:
                yield tensor, 0


def _begin(before: Array, chance: Chance) -> Array:
    """Where the iteration begins: in no column from zero."""
    if before.any(axis=0).all():
        return before
    if chance is None:
        raise SettingsError("a low rank codec needs a generator to begin from")
    begin = chance.standard_normal(before.shape, np.float32)
    return np.where(before.any(axis=0), before, begin)


def _split(part: Array, tensor: Tensor, begin: Array) -> tuple[Array, Array]:
    """(U S, V S)."""
    peak = np.abs(part).max()
    if peak == 0:
        return np.zeros((tensor.rows, begin.shape[1]), np.float32), np.zeros_like(begin)
    matrix = part / peak if tensor.mask is None else np.zeros(tensor.mask.size, np.float32)
    if tensor.mask is not None:
        matrix[tensor.places] = part / peak
    matrix = matrix.reshape(tensor.rows, tensor.columns)
    right = begin / np.abs(begin).max(axis=0)
    for _ in range(ITERATIONS):
        left = np.linalg.qr(matrix @ right)[0]
        right = matrix.T @ left
    vectors, sizes, turn = np.linalg.svd(right, full_matrices=False)
    scale = sizes.astype(np.float64) * float(peak)
    return _fitting((left @ turn.T) * scale), _fitting(vectors * scale)


def _fitting(values: Doubles) -> Array:
    return np.clip(values, -_LARGEST, _LARGEST).astype(np.float32)


def _add_products(total: Array, left: Array, right: Array) -> None:
    """The weights (rows, columns), in zeros; every sum in order and in float32, so that it is the same everywhere."""
    sizes = np.maximum(_lengths(left), _lengths(right))
    there = np.flatnonzero(left.any(axis=0) & right.any(axis=0))
    scaled = (left[:, there] / sizes[there]).astype(np.float32)
    columns = np.ascontiguousarray(right.T[there])
    step = max(_AT_ONCE // len(right), 1)
    room = np.empty((step, len(right)), np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        for begin in range(0, len(left), step):
            part, some = total[begin : begin + step], scaled[begin : begin + step]
            for place, column in enumerate(columns):
                part += np.multiply(some[:, place : place + 1], column, out=room[: len(part)])
    if columns.size and np.abs(columns).max() > _SAFE:
        np.clip(np.nan_to_num(total, copy=False), -_LARGEST, _LARGEST, out=total)


def _lengths(factor: Array) -> Doubles:
    """Of the columns; added in order."""
    found: Doubles = np.sqrt(np.cumsum(factor.astype(np.float64) ** 2, axis=0)[-1])
    return found


def _name(tensor: Tensor) -> str:
    return f"~lowrank.{tensor.name}"
