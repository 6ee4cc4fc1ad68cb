"""The step serializer and ANS with error feedback over a block of clients, compiled: what each gets.

The numbers are those of fedlite/compress/step.py and the sizes those of fedlite/compress/ans.py; no payload is made.
"""

import ctypes
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedlite.compress import contexts, frequencies, levels
from fedlite.compress.layout import Tensor, check_masks
from fedlite.compress.step import Step
from fedlite.errors import SettingsError
from fedlite.types import Array, Masks, Params, is_statistic
from fedlite.virtual.kernel.build import library

_LIMITS = (
    (contexts.CLASS_SHARES, np.float64),
    (frequencies.QUARTER_SHARES, np.float64),
    (frequencies.QUARTERS, np.int64),
    (levels.GROUP_MEANS, np.float64),
    (levels.STRONG, np.float64),
)
_STATISTIC, _MATRIX, _OTHER = range(3)


class _Stepping(ctypes.Structure):
    """As in src/steps.cpp."""

    _fields_ = (
        ("spans", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("num_spans", "size", "weights", "statistics")),
        *((name, ctypes.c_void_p) for name in ("live", "place", "bits", "counts")),
        ("limits", ctypes.c_void_p * len(_LIMITS)),
        ("deviations", ctypes.c_double),
        ("passes", ctypes.c_double),
        ("away", ctypes.c_float),
        ("sums", ctypes.c_int64),
        ("clients", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("rows", "owed", "residual", "sizes", "finite")),
        ("threads", ctypes.c_int64),
    )


@dataclass(frozen=True, eq=False)
class Spans:
    """A row's tensors as the coder walks them.

    `table` (tensors, 9): start, length, how many live, kind, rows and columns of a matrix, and where its parts of
    the others begin: `place`, live weights of pruned tensors, counted from the tensor's start; `bits`, pruned matrices'
    rows in 64-bit words; `counts`, live weights of their rows and then of their columns. `live` (size): 0 or 1.
    """

    table: NDArray[np.int64]
    live: NDArray[np.uint8]
    place: NDArray[np.int32]
    bits: NDArray[np.uint64]
    counts: NDArray[np.int32]

    @property
    def weights(self) -> int:
        """Live weights."""
        return int(self.table[self.table[:, 3] != _STATISTIC, 2].sum())

    @property
    def statistics(self) -> int:
        """Values of statistics."""
        return int(self.table[self.table[:, 3] == _STATISTIC, 1].sum())


def spans_of(like: Params, masks: Masks) -> Spans:
    """How rows of this model are coded. SettingsError for a mask that does not fit."""
    check_masks(like, masks)
    table, live, start = [np.zeros((0, 9), np.int64)], [np.zeros(0, np.uint8)], 0
    places, bits, counts = [np.zeros(0, np.int32)], [np.zeros(0, np.uint64)], [np.zeros(0, np.int32)]
    for name, value in like.items():
        mask = masks.get(name)
        tensor = Tensor(value.shape, None if mask is None or mask.all() else mask)
        kind = _STATISTIC if is_statistic(name) else _MATRIX if tensor.is_matrix else _OTHER
        shape = (tensor.rows, tensor.columns) if kind == _MATRIX else (0, 0)
        begins = (sum(map(len, places)), sum(map(len, bits)), sum(map(len, counts)))
        if tensor.mask is None:
            begins = (-1, 0, 0)
            live.append(np.ones(value.size, np.uint8))
        else:
            live.append(tensor.mask.ravel().astype(np.uint8))
            places.append(tensor.places.astype(np.int32))
            if kind == _MATRIX:
                grid = tensor.mask.reshape(shape)
                bits.append(_words(grid))
                counts += [np.count_nonzero(grid, axis=axis).astype(np.int32) for axis in (1, 0)]
        table.append(np.array([[start, value.size, tensor.live, kind, *shape, *begins]], np.int64))
        start += value.size
    return Spans(
        np.concatenate(table),
        np.concatenate(live),
        np.concatenate(places),
        np.concatenate(bits),
        np.concatenate(counts),
    )


def _words(grid: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """Each row as bits, lowest first, in words of its own."""
    words = math.ceil(grid.shape[1] / 64)
    padded = np.zeros((len(grid), 64 * words), np.bool_)
    padded[:, : grid.shape[1]] = grid
    return np.packbits(padded, axis=1, bitorder="little").view("<u8").astype(np.uint64).ravel()


def code_steps(
    step: Step,
    spans: Spans,
    rows: Array,
    owed: Array | None,
    residual: Array,
    finite: NDArray[np.uint8],
    threads: int,
    *,
    sums: bool = False,
) -> NDArray[np.int64]:
    """(clients): bytes of each body of this step and ANS. SettingsError where memory runs out.

    `rows` (clients, size) become what the server decodes and `residual`, which may be `owed`, what the codec lost.
    Where update + owed is not finite, `finite` is 0, the row 0 and what was owed still owed. `sums`: see `sum_sizes`.
    """
    sizes = np.zeros(len(rows), np.int64)
    limits = [np.ascontiguousarray(values, dtype) for values, dtype in _LIMITS]
    job = _Stepping(
        spans=spans.table.ctypes.data,
        num_spans=len(spans.table),
        size=rows.shape[1],
        weights=spans.weights,
        statistics=spans.statistics,
        **{name: getattr(spans, name).ctypes.data for name in ("live", "place", "bits", "counts")},
        limits=(ctypes.c_void_p * len(limits))(*(each.ctypes.data for each in limits)),
        deviations=step.deviations,
        passes=step.passes,
        away=float(np.float32(1 - step.dead_zone)),
        sums=sums,
        clients=len(rows),
        rows=rows.ctypes.data,
        owed=None if owed is None else owed.ctypes.data,
        residual=residual.ctypes.data,
        sizes=sizes.ctypes.data,
        finite=finite.ctypes.data,
        threads=threads,
    )
    if library().fedlite_step(ctypes.byref(job)):
        raise SettingsError("memory ran out in the compiled coder", remedy="simulate fewer clients at once")
    return sizes


def sum_sizes(spans: Spans, rows: Array, threads: int) -> NDArray[np.int64]:
    """(sums): bytes of each body of an exact codec whose step is the longest that is right; 0 where there is none.

    `rows` (sums, size) are used up. SettingsError where memory runs out.
    """
    finite = np.empty(len(rows), np.uint8)
    return code_steps(Step(exact=True), spans, rows, None, np.empty_like(rows), finite, threads, sums=True)
