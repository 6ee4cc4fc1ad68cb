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
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedlite.compress.bits import BitReader, BitWriter, RawBits
from fedlite.compress.contexts import CLASSES, CONTEXTS, EMPTY, Contexts, Grid, Ints, classes_of, grids_of
from fedlite.compress.entropy import Coder, Reader, Writer, code
from fedlite.compress.frequencies import WIDTH, tables
from fedlite.compress.layout import Tensor
from fedlite.errors import CodecError

Levels = NDArray[np.int8] | NDArray[np.int16]

TOP = 32767
_HEAD = struct.Struct("<II")  # levels that are not zero, bytes of the entropy coded part
_SYMBOLS_EACH = 256  # levels of a lane, at least
_MOST_LANES = 1 << 10
_ESCAPE = 47  # a gap's largest symbol: what is beyond follows as raw bits
_SHORT = 12  # magnitudes up to this have symbols of their own, longer ones share one for each octave
_GROUPS, _STRENGTHS = 8, 4  # of contexts by mean magnitude, of rows by how one-sided their signs are
GROUP_MEANS = 2.0 ** ((np.arange(_GROUPS - 1) + 0.5) / 1.5)  # from which a context is in the next group
_BUCKETS = 9  # of contexts by mean gap
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
    _model(writer, raw, grids, count, found)
    coded = writer.finish()
    return _HEAD.pack(count, len(coded)) + coded + raw.finish()


def decode(payload: bytes, tensors: tuple[Tensor, ...], *, wide: bool = False) -> Levels:
    """What `encode` was given, as int16 if `wide`, else int8; memory depends on the tensors alone.

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
    reader = Reader(payload[_HEAD.size : _HEAD.size + coded], lanes_for(count))
    raw = BitReader(payload[_HEAD.size + coded :])
    levels = np.zeros(size, "<i2" if wide else np.int8)
    top = TOP if wide else 127
    for grid, part in zip(grids, _model(reader, raw, grids, count, None), strict=True):
        if part.levels.size and np.abs(part.levels).max() > top:
            raise CodecError(f"payload holds a level of {np.abs(part.levels).max()}, at most {top} expected")
        if isinstance(grid.places, slice):
            levels[grid.places.start + part.places] = part.levels
        else:
            levels[grid.places[part.places]] = part.levels
    reader.close()
    raw.close()
    return levels


def lanes_for(count: int) -> int:
    """How many lanes code `count` levels: a power of two, at most 1024."""
    return min(1 << (max(count // _SYMBOLS_EACH, 1).bit_length() - 1), _MOST_LANES)


def _model(
    coder: Coder, raw: RawBits, grids: list[Grid], count: int, found: list[_Found] | None
) -> list[_Found]:
    """What is coded, in order, in both directions: `found` is given when writing, returned when reading."""
    sides = _sides(
        coder, grids, None if found is None else [_side(*pair) for pair in zip(grids, found, strict=True)]
    )
    contexts = [Contexts(grid, side.rows, side.columns) for grid, side in zip(grids, sides, strict=True)]
    if found is not None:
        found = [_in_order(*pair) for pair in zip(contexts, found, strict=True)]
    totals = np.concatenate([np.zeros(0, np.int64), *(each.totals for each in contexts)])
    starts = np.cumsum(totals) - totals
    begins = [int(each) for each in starts[::CONTEXTS]]
    order = None
    if found is not None:
        pairs = zip(contexts, found, begins, strict=True)
        order = np.concatenate([np.zeros(0, np.int64), *(c.order(f.places) + begin for c, f, begin in pairs)])
    counts = _counts(coder, raw, totals, starts, count, order)
    context = np.repeat(np.arange(len(totals)), counts)
    order = _order(coder, raw, totals, starts, counts, context, order)
    ends = np.cumsum([0, *(counts.reshape(-1, CONTEXTS).sum(axis=1))])
    spans = [slice(*pair) for pair in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)]
    if found is None:
        parts = zip(contexts, spans, begins, strict=True)
        places = [c.places(order[span] - begin) for c, span, begin in parts]
    else:
        places = [each.places for each in found]
    signs = np.concatenate([np.zeros(0, np.int64), *map(_signs, grids, sides, places)])
    levels = None if found is None else np.concatenate([np.zeros(0, np.int64), *(f.levels for f in found)])
    levels = _values(coder, raw, counts, context, signs, levels)
    return [_Found(place, levels[span]) for place, span in zip(places, spans, strict=True)]


def _find(levels: Levels) -> _Found:
    places = np.flatnonzero(levels)
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


def _in_order(contexts: Contexts, found: _Found) -> _Found:
    """The same, by context and rank."""
    keys = np.sort(contexts.order(found.places) << 16 | (found.levels + TOP))
    return _Found(contexts.places(keys >> 16), (keys & 0xFFFF) - TOP)


def _counts(coder: Coder, raw: RawBits, totals: Ints, starts: Ints, count: int, order: Ints | None) -> Ints:
    """How many of each context's weights are not zero: the length of the number, then its lower bits."""
    there = totals > 0
    given = None if order is None else np.diff(np.searchsorted(order, starts), append=len(order))[there]
    lengths = None if given is None else np.frexp(given)[1].astype(np.int64)
    lengths = code(coder, int(np.count_nonzero(there)), 32, lengths)
    top = np.where(lengths > 0, 1 << np.maximum(lengths - 1, 0), 0)
    counts = np.zeros(len(totals), np.int64)
    counts[there] = top + raw.take(np.maximum(lengths - 1, 0), None if given is None else given - top)
    if (counts > totals).any() or counts.sum() != count:
        raise CodecError(f"payload holds {counts.sum()} levels in its contexts, {count} expected")
    return counts


def _order(
    coder: Coder,
    raw: RawBits,
    totals: Ints,
    starts: Ints,
    counts: Ints,
    context: Ints,
    order: Ints | None,
) -> Ints:
    """Where levels are: the gaps between them, cut to symbols of a mean below 8 and raw bits."""
    sixteenths = 16 * (totals - counts) // np.maximum(counts, 1)
    length = np.frexp(sixteenths)[1].astype(np.int64)
    cut, bucket = np.maximum(length - 7, 0), np.minimum(length, _BUCKETS - 1)
    used = np.bincount(bucket[counts > 0], minlength=_BUCKETS) > 0
    which, wide = bucket[context], cut[context]
    first = np.zeros(len(context), np.bool_)
    first[(np.cumsum(counts) - counts)[counts > 0]] = True
    gaps = symbols = None
    if order is not None:
        before = np.concatenate([np.full(min(1, len(order)), -1), order[:-1]])
        gaps = order - np.where(first, starts[context] - 1, before) - 1
        symbols = np.minimum(gaps >> wide, _ESCAPE)
    seen = None if symbols is None else _histogram(which, symbols, _BUCKETS)
    symbols = coder.mixed(tables(coder, used, seen), which, symbols)
    far = np.flatnonzero(symbols == _ESCAPE)
    over = None if gaps is None else (gaps[far] >> wide[far]) - _ESCAPE
    lengths = None if over is None else np.frexp(over)[1].astype(np.int64)
    lengths = raw.take(np.full(len(far), 5), lengths)
    symbols[far] += raw.take(lengths, over)
    low = raw.take(wide, None if gaps is None else gaps & ((1 << wide) - 1))
    if order is not None:
        return order
    found = np.cumsum((symbols << wide) + low + 1) - 1
    begins = np.flatnonzero(first)
    shift = starts[context[begins]] - np.concatenate(
        [np.zeros(min(1, len(begins)), np.int64), found[begins[1:] - 1] + 1]
    )
    found += np.repeat(shift, np.diff(begins, append=len(found)))
    if (found >= (starts + totals)[context]).any():
        raise CodecError("payload holds a level beyond the weights of its context")
    return found


def _signs(grid: Grid, side: _Side, places: Ints) -> Ints:
    """2 · strength + flip of each level's row."""
    if grid.tensor is None:
        return np.zeros(len(places), np.int64)
    return side.signs[grid.split(places)[0]]


def _values(
    coder: Coder, raw: RawBits, counts: Ints, context: Ints, signs: Ints, levels: Ints | None
) -> Ints:
    """What levels are: a symbol for magnitude and sign, in tables by the context's group and the row's strength."""
    there = counts > 0
    groups, size, symbols, seen = np.zeros(len(counts), np.int64), None, None, None
    number = _GROUPS * _STRENGTHS
    if levels is not None:
        size = np.abs(levels)
        mean = np.bincount(context, size, len(counts))[there] / counts[there]
        groups[there] = np.searchsorted(GROUP_MEANS, mean, side="right")
    some = groups[there] if levels is not None else None
    groups[there] = code(coder, int(np.count_nonzero(there)), _GROUPS, some)
    which = groups[context] * _STRENGTHS + (signs >> 1)
    if size is not None and levels is not None:
        octave = np.frexp(np.maximum(size - _SHORT, 1))[1].astype(np.int64) - 1
        kinds = np.where(size <= _SHORT, size - 1, _SHORT + octave)
        symbols = 2 * kinds + ((levels < 0) ^ (signs & 1))
        seen = _histogram(which, symbols, number)
    used = np.bincount(which, minlength=number) > 0
    symbols = coder.mixed(tables(coder, used, seen), which, symbols)
    half = symbols >> 1
    octave = np.maximum(half - _SHORT, 0)
    extra = raw.take(
        octave, None if size is None else np.where(half < _SHORT, 0, size - _SHORT - (1 << octave))
    )
    found = np.where(half < _SHORT, half + 1, _SHORT + (1 << octave) + extra)
    return np.where((symbols ^ signs) & 1, -found, found)


def _histogram(which: Ints, symbols: Ints, number: int) -> Ints:
    """(number, WIDTH): how often each table's symbols come."""
    return np.bincount(which * WIDTH + symbols, minlength=number * WIDTH).reshape(number, WIDTH)
