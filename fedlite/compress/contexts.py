"""Which weights of an update are likely alike: rows and columns in classes, and weights counted off by context.

A weight's context is the sum of its row's and its column's class. Its *rank* is how many live weights of the same
context are before it in the tensor, row-major. All small tensors together are one row in context 0.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fedlite.compress.layout import Tensor

Ints = NDArray[np.int64]

CLASSES, EMPTY = 16, 15  # the last class: nothing there, and no context
CONTEXTS = 2 * EMPTY - 1
_OCTAVE = 2  # classes in one
CLASS_SHARES = 2.0 ** (-(np.arange(EMPTY - 1) + 0.5) / _OCTAVE)  # class k is below k of them


@dataclass(frozen=True, eq=False)
class Grid:
    """A matrix (`tensor`), or all small tensors together (None): `places` of its live weights in the plane."""

    tensor: Tensor | None
    count: int
    places: slice | Ints

    def in_plane(self, places: Ints) -> Ints:
        """Where in the plane the live weights are that are counted `places` from the first."""
        if isinstance(self.places, slice):
            moved: Ints = places + self.places.start
            return moved
        found: Ints = self.places[places]
        return found

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns that have classes."""
        return (self.tensor.rows, self.tensor.columns) if self.tensor is not None else (0, 0)

    @cached_property
    def indices(self) -> tuple[Ints, Ints]:
        """(row, column) of each live weight of a tensor with a mask."""
        assert self.tensor is not None
        rows, columns = np.divmod(self.tensor.places, self.tensor.columns)
        return rows, columns

    def split(self, places: Ints) -> tuple[Ints, Ints]:
        """(rows, columns) of the live weights counted `places` from the first."""
        if self.tensor is not None and self.tensor.mask is not None:
            rows, columns = self.indices
            return rows[places], columns[places]
        rows = places // self.shape[1]
        return rows, places - rows * self.shape[1]

    def live(self) -> tuple[Ints, Ints]:
        """How many live weights rows and columns have."""
        rows, columns = self.shape
        if self.tensor is None or self.tensor.mask is None:
            return np.full(rows, columns), np.full(columns, rows)
        of_row, of_column = self.indices
        return np.bincount(of_row, minlength=rows), np.bincount(of_column, minlength=columns)


def grids_of(tensors: tuple[Tensor, ...]) -> list[Grid]:
    """The matrices in order, then what is left, if there is any."""
    ends = np.cumsum([tensor.live for tensor in tensors]).tolist()
    spans = [slice(end - t.live, end) for t, end in zip(tensors, ends, strict=True)]
    grids = [Grid(t, t.live, span) for t, span in zip(tensors, spans, strict=True) if t.is_matrix]
    rest = [
        np.arange(span.start, span.stop) for t, span in zip(tensors, spans, strict=True) if not t.is_matrix
    ]
    if rest:
        places = np.concatenate(rest)
        grids.append(Grid(None, len(places), places))
    return grids


def classes_of(counts: Ints, live: Ints) -> Ints:
    """The class of rows (or columns) with so many levels that are not zero, of so many live ones."""
    share = counts / np.maximum(live, 1)
    return np.where(counts > 0, below(CLASS_SHARES, share), EMPTY)


def below(limits: NDArray[np.float64], values: NDArray[np.float64]) -> Ints:
    """How many of the falling `limits` each value is smaller than."""
    found: Ints = len(limits) - np.searchsorted(limits[::-1], values, side="right")
    return found


class Contexts:
    """A grid whose rows and columns have classes. `totals` (CONTEXTS): live weights of each context."""

    def __init__(self, grid: Grid, rows: Ints, columns: Ints) -> None:
        self._grid, self._rows, self._columns = grid, rows, columns
        self._masked = grid.tensor is not None and grid.tensor.mask is not None
        if grid.tensor is None:
            self.totals: Ints = np.zeros(CONTEXTS, np.int64)
            self.totals[0] = grid.count
        elif self._masked:
            self.totals = np.bincount(self._of_all, minlength=CONTEXTS)[:CONTEXTS]
        else:
            sizes = [np.bincount(each, minlength=CLASSES)[:EMPTY] for each in (rows, columns)]
            self.totals = np.convolve(sizes[0], sizes[1])
        self.starts = np.cumsum(self.totals) - self.totals

    def in_order(self, places: Ints) -> tuple[Ints, Ints]:
        """Ascending starts[context] + rank of live weights, and which of `places` each is of.

        `places` ascend, and none is in an empty row or column.
        """
        if self._grid.tensor is None:
            return places, np.arange(len(places))
        rows, columns = self._grid.split(places)
        context = self._rows[rows] + self._columns[columns]
        by = np.argsort(context.astype(np.uint8), kind="stable")
        if self._masked:
            order = np.empty(self._grid.count, np.int64)
            order[self._sorted] = np.arange(self._grid.count)
            return order[places[by]], by
        found: Ints = self._base[context * len(self._rows) + rows] + self._in_class[columns]
        return found[by], by

    def places(self, order: Ints) -> Ints:
        """The inverse, for ascending `order`."""
        if self._grid.tensor is None:
            return order
        if self._masked:
            return self._sorted[order]
        cells = np.searchsorted(self._base, order, side="right") - 1
        context, rows = np.divmod(cells, len(self._rows))
        group = context - self._rows[rows]
        columns = self._by_class[self._class_starts[group] + order - self._base[cells]]
        found: Ints = rows * self._grid.shape[1] + columns
        return found

    @cached_property
    def _of_all(self) -> NDArray[np.uint8]:
        """The context of every live weight; above all of them where its row or column is empty."""
        rows, columns = self._grid.indices
        far = np.where(self._rows == EMPTY, 64, self._rows).astype(np.uint8)
        across = np.where(self._columns == EMPTY, 64, self._columns).astype(np.uint8)
        return far[rows] + across[columns]

    @cached_property
    def _sorted(self) -> Ints:
        return np.argsort(self._of_all, kind="stable")

    @cached_property
    def _by_class(self) -> Ints:
        return np.argsort(self._columns, kind="stable")

    @cached_property
    def _class_starts(self) -> Ints:
        sizes = np.bincount(self._columns, minlength=CLASSES)
        return np.cumsum(sizes) - sizes

    @cached_property
    def _in_class(self) -> Ints:
        """How many columns of its own class are before each."""
        found = np.empty(len(self._columns), np.int64)
        found[self._by_class] = np.arange(len(self._columns))
        return found - self._class_starts[self._columns]

    @cached_property
    def _base(self) -> Ints:
        """By context and row: starts[context] and the live weights of that context in the rows before."""
        sizes = np.zeros(CONTEXTS + EMPTY + 1, np.int64)
        sizes[:EMPTY] = np.bincount(self._columns, minlength=CLASSES)[:EMPTY]
        group = np.arange(CONTEXTS)[:, None] - self._rows[None, :]  # negative ones index from the end: zeros
        width = np.where((self._rows == EMPTY)[None, :], 0, sizes[group])
        found: Ints = (self.starts[:, None] + np.cumsum(width, axis=1) - width).ravel()
        return found
