"""The int8 serializer with error feedback over a block of clients, compiled: the bytes of fedlite/compress/int8.py."""

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedlite.compress.layout import channels_of, check_masks
from fedlite.errors import SettingsError
from fedlite.types import Array, Masks, Params, is_statistic
from fedlite.virtual.kernel.build import library

Bytes = NDArray[np.uint8]

_COUNTS = ("num_pieces", "size", "scales", "weights", "body")


class _Coding(ctypes.Structure):
    """As in src/coding.cpp."""

    _fields_ = (
        ("pieces", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in _COUNTS),
        *((name, ctypes.c_void_p) for name in ("live", "place")),
        ("clients", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("rows", "owed", "residual", "bodies", "finite")),
        ("threads", ctypes.c_int64),
    )


@dataclass(frozen=True, eq=False)
class Pieces:
    """A row as the coder walks it: spans under one scale, and statistics.

    `table` (pieces, 4): start, length, how many live, whether a statistic. `live` (size): 0 or 1. `place`: the
    live weights of spans with pruned ones, counted from the span's start.
    """

    table: NDArray[np.int64]
    live: Bytes
    place: NDArray[np.int32]

    @property
    def scales(self) -> int:
        """How many spans have live weights."""
        return int(np.count_nonzero((self.table[:, 2] > 0) & (self.table[:, 3] == 0)))

    @property
    def weights(self) -> int:
        """Live weights."""
        return int(self.table[self.table[:, 3] == 0, 2].sum())

    @property
    def body(self) -> int:
        """Bytes of one client's body."""
        return 2 * self.scales + self.weights + 4 * int(self.table[self.table[:, 3] == 1, 1].sum())


def pieces_of(like: Params, masks: Masks, *, per_channel: bool) -> Pieces:
    """How rows of this model are coded. SettingsError for a mask that does not fit."""
    check_masks(like, masks)
    tables, places, start = [np.zeros((0, 4), np.int64)], [np.zeros(0, np.int32)], 0
    live = [np.zeros(0, np.uint8)]
    for name, value in like.items():
        spans = channels_of(value.shape) if per_channel and not is_statistic(name) else 1
        mask = masks.get(name, np.True_)
        bits = np.broadcast_to(mask, value.shape).reshape(spans, value.size // spans)
        counts, length = bits.sum(axis=1), bits.shape[1]
        table = np.full((spans, 4), (0, length, 0, is_statistic(name)), np.int64)
        table[:, 0] = start + length * np.arange(spans)
        table[:, 2] = counts
        tables.append(table[table[:, 1] > 0])
        places.append(_places(bits, counts))
        live.append(bits.ravel().astype(np.uint8))
        start += value.size
    return Pieces(np.concatenate(tables), np.concatenate(live), np.concatenate(places))


def _places(bits: NDArray[np.bool_], counts: NDArray[np.int64]) -> NDArray[np.int32]:
    """Where each row (spans, length) is True, counted from its start; rows that are True throughout left out."""
    length = bits.shape[1]
    if (some := counts < length).all():
        rows = counts
    else:
        bits, rows = bits[some], counts[some]
    starts = np.repeat(length * np.arange(len(rows)), rows)
    places: NDArray[np.int64] = np.flatnonzero(bits) - starts
    return places.astype(np.int32)


def bodies_of(
    pieces: Pieces,
    rows: Array,
    owed: Array | None,
    residual: Array,
    finite: Bytes,
    *,
    most: int,
    threads: int,
) -> Iterator[Bytes]:
    """The bodies (clients, `pieces.body`) of `most` clients at a time; each use ends the one before.

    As they come, `rows` (clients, size) become what the server decodes and `residual`, which may be `owed`, what
    the codec lost. Where update + owed is not finite, `finite` is 0, the row 0 and what was owed still owed.
    """
    bodies = np.empty((min(most, len(rows)), pieces.body), np.uint8)
    for begin in range(0, len(rows), most):
        part = slice(begin, begin + most)
        count = len(rows[part])
        job = _Coding(
            pieces=pieces.table.ctypes.data,
            num_pieces=len(pieces.table),
            size=rows.shape[1],
            scales=pieces.scales,
            weights=pieces.weights,
            body=pieces.body,
            live=pieces.live.ctypes.data,
            place=pieces.place.ctypes.data,
            clients=count,
            rows=rows[part].ctypes.data,
            owed=None if owed is None else owed[part].ctypes.data,
            residual=residual[part].ctypes.data,
            bodies=bodies.ctypes.data,
            finite=finite[part].ctypes.data,
            threads=threads,
        )
        if library().fedlite_code(ctypes.byref(job)):
            raise SettingsError(
                "memory ran out in the compiled coder", remedy="simulate fewer clients at once"
            )
        yield bodies[:count]
