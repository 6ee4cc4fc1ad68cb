"""Sums and maxima over clients' rows, at the speed memory has; with NumPy where nothing compiles."""

import ctypes

import numpy as np
from numpy.typing import NDArray

from fedlite.types import Array
from fedlite.virtual.kernel.build import available, library

_int64 = ctypes.c_int64
_pointer = ctypes.c_void_p


def add_rows(total: NDArray[np.float64], rows: Array, weights: NDArray[np.float64], threads: int = 1) -> None:
    """total (size) += weights[b] · rows[b] for each b of rows (clients, size), one after another.

    In float64, each product rounded before it is added: the bits of `fedlite.aggregate.add`, client by client.
    """
    for array, dtype in ((total, np.float64), (rows, np.float32)):
        assert array.flags.c_contiguous
        assert array.dtype == dtype
    assert rows.shape == (len(weights), total.size)
    weights = np.ascontiguousarray(weights, np.float64)
    if available() is None:
        library().fedlite_add(
            _pointer(total.ctypes.data),
            _pointer(rows.ctypes.data),
            _pointer(weights.ctypes.data),
            *map(_int64, (*rows.shape, threads)),
        )
        return
    for weight, row in zip(weights, rows, strict=True):
        total += weight * row.astype(np.float64)


def largest_rows(rows: Array, threads: int = 1) -> Array:
    """The largest magnitude in each row (clients, size ≥ 1); infinity or NaN where a row holds one."""
    assert rows.flags.c_contiguous
    assert rows.dtype == np.float32
    largest: Array = np.empty(len(rows), np.float32)
    if available() is None:
        library().fedlite_largest(
            _pointer(rows.ctypes.data),
            _pointer(largest.ctypes.data),
            *map(_int64, (*rows.shape, threads)),
        )
        return largest
    for index, row in enumerate(rows):
        largest[index] = np.abs(row).max(initial=0)
    return largest
