"""Levels of an update, most of them zero, close to their entropy: where they are, and what they are.

Where: an update of a dense layer is nearly an outer product of errors and activations, so a weight's chance to be
non-zero follows from its row's and its column's. Rows and columns are put in *classes* by how many of their levels
are non-zero, half an octave each, and the sum of both is a weight's *context* (`fedlite.compress.contexts`). Within a
context the non-zero levels lie about evenly, so the gaps between them are nearly geometric: there is one symbol for
each non-zero level, however many zeros there are. What: magnitude and sign are one symbol, whose chances depend on
how large the context's magnitudes are and how one-sided the row's signs.

docs/format.md has the bytes. (Gaps instead of bits: Golomb 1966. Contexts sent ahead, not learned: as in CALIC's and
JPEG-LS's neighbours, but of rows and columns, for updates have no neighbourhood.)
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedlite.compress.bits import BitReader, BitWriter, RawBits
from fedlite.compress.contexts import CLASSES, CONTEXTS, EMPTY, Contexts, Grid, Ints, classes_of, grids_of
from fedlite.compress.entropy import Coder, Reader, Writer, code
from fedlite.compress.frequencies import WIDTH, tables
from fedlite.compress.gaps import RUN, Places, Spread, code_counts, code_order, histogram
from fedlite.compress.layout import Tensor
from fedlite.errors import CodecError

Levels = NDArray[np.int8] | NDArray[np.int16]

TOP = 32767
_HEAD = struct.Struct("<II")  # levels that are not zero, bytes of the entropy coded part
_SYMBOLS_EACH = 256  # levels of a lane, at least
_MOST_LANES = 1 << 10
_SHORT = 12  # magnitudes up to this have symbols of their own, longer ones share one for each octave
_GROUPS, _STRENGTHS = 8, 4  # of contexts by mean magnitude, of rows by how one-sided their signs are
_SIZES = np.arange(TOP + 1)
_KINDS = 2 * np.where(_SIZES <= _SHORT, _SIZES - 1, _SHORT - 1 + np.frexp(np.maximum(_SIZES - _SHORT, 1))[1])
GROUP_MEANS = 2.0 ** ((np.arange(_GROUPS - 1) + 0.5) / 1.5)  # from which a context is in the next group
STRONG = np.array([0.65, 0.85, 0.97])  # share of the commoner sign from which a row is in the next strength


@dataclass(frozen=True, eq=False)
class _Side:
    """What is sent of a grid's rows and columns: classes, and for each row 2 · strength + (whether − is commoner)."""

    rows: Ints
    columns: Ints
    signs: Ints


@dataclass(frozen=True, eq=False)
class _Found:
    """The levels of a grid that are not zero, by their number among its live weights."""

    places: Ints
    levels: Ints


def encode(levels: Levels, tensors: tuple[Tensor, ...]) -> bytes:
    """The payload of one level for each live weight of these tensors, −127 … 127 or −32767 … 32767."""
    grids = grids_of(tensors)
    found = [_find(levels[grid.places]) for grid in grids]
    count = sum(len(each.levels) for each in found)
    writer, raw = Writer(lanes_for(count)), BitWriter()
    for _ in _model(writer, raw, grids, count, found):
        pass
    coded = writer.finish()
    return _HEAD.pack(count, len(coded)) + coded + raw.finish()


def decode(payload: bytes | memoryview, tensors: tuple[Tensor, ...], levels: Levels) -> None:
    """What `encode` was given, into `levels`, which are zeros; memory depends on the tensors alone.

    CodecError for what it never writes.
    """
    grids = grids_of(tensors)
    size = sum(tensor.live for tensor in tensors)
    if len(payload) < _HEAD.size:
        raise CodecError(f"payload holds levels in {len(payload)} bytes, at least {_HEAD.size} expected")
    count, coded = _HEAD.unpack_from(payload)
    if count > size or _HEAD.size + coded > len(payload):
        raise CodecError(
            f"payload claims {count} levels in {coded} bytes; there are {size} in {len(payload)}"
        )
    whole, middle = memoryview(payload), _HEAD.size + coded
    reader, raw = Reader(whole[_HEAD.size : middle], lanes_for(count)), BitReader(whole[middle:])
    top = TOP if levels.itemsize == 2 else 127
    for places, part in _model(reader, raw, grids, count, None):
        if np.abs(part).max() > top:
            raise CodecError(f"payload holds a level of {np.abs(part).max()}, at most {top} expected")
        levels[places] = part
    reader.close()
    raw.close()


def lanes_for(count: int) -> int:
    """How many lanes code `count` levels: a power of two, at most 1024."""
    return min(1 << (max(count // _SYMBOLS_EACH, 1).bit_length() - 1), _MOST_LANES)


def _model(
    coder: Coder, raw: RawBits, grids: list[Grid], count: int, found: list[_Found] | None
) -> Iterator[tuple[Places, Ints]]:
    """What is coded, in order, in both directions: `found` is given when writing.

    A reader is given (places in the plane, levels), run by run; a writer's runs are only to be gone through.
    """
    sides = _sides(
        coder, grids, None if found is None else [_side(*pair) for pair in zip(grids, found, strict=True)]
    )
    contexts = [Contexts(grid, side.rows, side.columns) for grid, side in zip(grids, sides, strict=True)]
    none = np.zeros(0, np.int64)
    totals = np.concatenate([none, *(each.totals for each in contexts)])
    begins = [int(each) for each in (np.cumsum(totals) - totals)[::CONTEXTS]]
    order, levels = None, None
    if found is not None:
        ordered = [each.in_order(part.places) for each, part in zip(contexts, found, strict=True)]
        order = np.concatenate([none, *(o + begin for (o, _), begin in zip(ordered, begins, strict=True))])
        found = [_Found(f.places[by], f.levels[by]) for f, (_, by) in zip(found, ordered, strict=True)]
        levels = np.concatenate([none, *(each.levels for each in found)])
    spread = code_counts(coder, raw, totals, count, order)
    places = code_order(coder, raw, spread, order)
    signs = np.zeros(count, np.uint8)
    ends = np.cumsum([0, *spread.counts.reshape(-1, CONTEXTS).sum(axis=1)]).tolist()
    for number, (grid, side, each) in enumerate(zip(grids, sides, contexts, strict=True)):
        for start in range(ends[number], ends[number + 1], RUN):
            run = slice(start, min(start + RUN, ends[number + 1]))
            if found is None:
                inside = each.places(places[run].astype(np.int64) - begins[number])
                places[run] = grid.in_plane(inside)
            else:
                inside = found[number].places[run.start - ends[number] : run.stop - ends[number]]
            signs[run] = _signs(grid, side, inside)
    for run, part in _values(coder, raw, spread, signs, levels):
        yield places[run], part


def _find(levels: Levels) -> _Found:
    places = np.flatnonzero(levels != 0)
    return _Found(places, levels[places].astype(np.int64))


def _side(grid: Grid, found: _Found) -> _Side:
    """What is sent ahead of these levels."""
    rows, columns = grid.shape
    if grid.tensor is None:
        return _Side(*(np.zeros(0, np.int64) for _ in range(3)))
    of_row, of_column = grid.split(found.places)
    live_rows, live_columns = grid.live()
    counts = np.bincount(of_row, minlength=rows)
    negative = np.bincount(of_row[found.levels < 0], minlength=rows)
    flip = 2 * negative > counts
    share = np.where(flip, negative, counts - negative) / np.maximum(counts, 1)
    return _Side(
        classes_of(counts, live_rows),
        classes_of(np.bincount(of_column, minlength=columns), live_columns),
        2 * np.searchsorted(STRONG, share, side="right") + flip,
    )


def _sides(coder: Coder, grids: list[Grid], given: list[_Side] | None) -> list[_Side]:
    """Classes of all rows, classes of all columns, signs of all rows that are not empty."""
    num_rows, num_columns = (np.array([grid.shape[axis] for grid in grids], np.int64) for axis in (0, 1))
    none = np.zeros(0, np.int64)
    rows = None if given is None else np.concatenate([none, *(side.rows for side in given)])
    columns = None if given is None else np.concatenate([none, *(side.columns for side in given)])
    rows = code(coder, int(num_rows.sum()), CLASSES, rows)
    columns = code(coder, int(num_columns.sum()), CLASSES, columns)
    there = rows != EMPTY
    signs = np.zeros(len(rows), np.int64)
    some = None if given is None else np.concatenate([none, *(side.signs for side in given)])[there]
    signs[there] = code(coder, int(np.count_nonzero(there)), 2 * _STRENGTHS, some)
    at, across = np.cumsum(num_rows)[:-1], np.cumsum(num_columns)[:-1]
    parts = zip(np.split(rows, at), np.split(columns, across), np.split(signs, at), strict=True)
    return [_Side(*part) for part in parts][: len(grids)]


def _signs(grid: Grid, side: _Side, places: Ints) -> Ints:
    """2 · strength + flip of each level's row."""
    if grid.tensor is None:
        return np.zeros(len(places), np.int64)
    return side.signs[grid.split(places)[0]]


def _values(
    coder: Coder, raw: RawBits, spread: Spread, signs: NDArray[np.uint8], levels: Ints | None
) -> Iterator[tuple[slice, Ints]]:
    """What levels are: a symbol for magnitude and sign, in tables by the context's group and the row's strength."""
    there, number = spread.counts > 0, _GROUPS * _STRENGTHS
    groups, used = np.zeros(len(there), np.int64), np.zeros(number, np.bool_)
    seen = np.zeros((number, WIDTH), np.int64)
    if levels is not None:
        sums = (
            np.add.reduceat(np.abs(levels), (np.cumsum(spread.counts) - spread.counts)[there])
            if len(levels)
            else 0
        )
        groups[there] = np.searchsorted(GROUP_MEANS, sums / spread.counts[there], side="right")
    some = groups[there] if levels is not None else None
    groups[there] = code(coder, int(np.count_nonzero(there)), _GROUPS, some)
    for run, context in spread.runs():
        which = groups[context] * _STRENGTHS + (signs[run] >> 1)
        used[which] = True
        if levels is not None:
            seen += histogram(which, _symbols(levels[run], signs[run]), number)
    coded = coder.mixed(tables(coder, used, None if levels is None else seen))
    for run, context in spread.runs():
        which = groups[context] * _STRENGTHS + (signs[run] >> 1)
        symbols = coded(which, None if levels is None else _symbols(levels[run], signs[run]))
        half = symbols >> 1
        octave = np.maximum(half - _SHORT, 0)
        base = np.where(half < _SHORT, half + 1, _SHORT + (1 << octave))
        size = base + raw.take(octave, None if levels is None else np.abs(levels[run]) - base)
        yield run, np.where((symbols ^ signs[run]) & 1, -size, size)


def _symbols(levels: Ints, signs: NDArray[np.uint8]) -> Ints:
    """Twice the kind of magnitude, and whether the sign is the row's rarer one."""
    found: Ints = _KINDS[np.abs(levels)] ^ (levels < 0) ^ (signs & 1)
    return found
