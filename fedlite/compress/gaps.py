"""Where levels are that are not zero: how many each context has, and the gaps between them.

A reader works through them in runs, so that it needs little more memory than what it finds.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedlite.compress.bits import RawBits
from fedlite.compress.contexts import Ints
from fedlite.compress.entropy import Coder, code
from fedlite.compress.frequencies import WIDTH, tables
from fedlite.errors import CodecError

Places = NDArray[np.int64] | NDArray[np.int32]

RUN = 1 << 13  # levels that are coded at a time: a multiple of the most lanes
_ESCAPE = 47  # a gap's largest symbol: what is beyond follows as raw bits
_BUCKETS = 9  # of contexts by mean gap


@dataclass(frozen=True, eq=False)
class Spread:
    """Live weights of each context (`totals`), where they begin (`starts`), and how many are not zero (`counts`)."""

    totals: Ints
    starts: Ints
    counts: Ints

    def runs(self) -> Iterator[tuple[slice, Ints]]:
        """Levels, in order, in runs, with the context of each."""
        ends = np.cumsum(self.counts)
        for begin in range(0, int(self.counts.sum()), RUN):
            end = min(begin + RUN, int(ends[-1]))
            some = slice(np.searchsorted(ends, begin, "right"), np.searchsorted(ends, end, "left") + 1)
            inside = np.minimum(ends[some], end) - np.maximum(ends[some] - self.counts[some], begin)
            yield slice(begin, end), np.repeat(np.arange(len(ends))[some], inside)


def code_counts(coder: Coder, raw: RawBits, totals: Ints, count: int, order: Ints | None) -> Spread:
    """How many of each context's weights are not zero: the length of the number, then its lower bits."""
    there, starts = totals > 0, np.cumsum(totals) - totals
    given = None if order is None else np.diff(np.searchsorted(order, starts), append=len(order))[there]
    lengths = None if given is None else np.frexp(given)[1].astype(np.int64)
    lengths = code(coder, int(np.count_nonzero(there)), 32, lengths)
    top = np.where(lengths > 0, 1 << np.maximum(lengths - 1, 0), 0)
    counts = np.zeros(len(totals), np.int64)
    counts[there] = top + raw.take(np.maximum(lengths - 1, 0), None if given is None else given - top)
    if (counts > totals).any() or counts.sum() != count:
        raise CodecError(f"payload holds {counts.sum()} levels in its contexts, {count} expected")
    return Spread(totals, starts, counts)


def code_order(coder: Coder, raw: RawBits, spread: Spread, order: Ints | None) -> Places:
    """Starts and ranks of all levels: the gaps between them, cut to symbols of a mean below 8 and raw bits."""
    totals, counts = spread.totals, spread.counts
    sixteenths = 16 * (totals - counts) // np.maximum(counts, 1)
    length = np.frexp(sixteenths)[1].astype(np.int64)
    cut, bucket = np.maximum(length - 7, 0), np.minimum(length, _BUCKETS - 1)
    used = np.bincount(bucket[counts > 0], minlength=_BUCKETS) > 0
    gaps, over, seen = None, None, None
    if order is not None:
        gaps, seen = _gaps(order, spread), np.zeros((_BUCKETS, WIDTH), np.int64)
        for run, context in spread.runs():
            seen += histogram(bucket[context], np.minimum(gaps[run] >> cut[context], _ESCAPE), _BUCKETS)
    symbols = _symbols(coder, spread, gaps, tables(coder, used, seen), cut, bucket)
    far = np.flatnonzero(symbols == _ESCAPE)
    if gaps is not None:
        ends = np.cumsum(counts)
        over = (gaps[far] >> cut[np.searchsorted(ends, far, "right")]) - _ESCAPE
    lengths = None if over is None else np.frexp(over)[1].astype(np.int64)
    lengths = raw.take(np.full(len(far), 5), lengths)
    over = raw.take(lengths, over)
    if order is None:
        return _read(raw, spread, symbols, far, over, cut)
    assert gaps is not None
    for run, context in spread.runs():
        raw.take(cut[context], gaps[run] & ((1 << cut[context]) - 1))
    return order


def histogram(which: Ints, symbols: Ints, number: int) -> Ints:
    """(number, WIDTH): how often each table's symbols come."""
    found: Ints = np.bincount(which * WIDTH + symbols, minlength=number * WIDTH).reshape(number, WIDTH)
    return found


def _gaps(order: Ints, spread: Spread) -> Ints:
    """Weights before each level, behind the one before it in its context."""
    before = np.concatenate([np.full(min(1, len(order)), -1), order[:-1]])
    first = (np.cumsum(spread.counts) - spread.counts)[spread.counts > 0]
    before[first] = spread.starts[spread.counts > 0] - 1
    found: Ints = order - before - 1
    return found


def _symbols(
    coder: Coder, spread: Spread, gaps: Ints | None, frequencies: Ints, cut: Ints, bucket: Ints
) -> NDArray[np.uint8]:
    """What gaps are, cut; CodecError as soon as they are more than there are weights."""
    found, least, coded = np.empty(int(spread.counts.sum()), np.uint8), 0, coder.mixed(frequencies)
    for run, context in spread.runs():
        given = None if gaps is None else np.minimum(gaps[run] >> cut[context], _ESCAPE)
        some = coded(bucket[context], given)
        found[run] = some
        least += int(((some << cut[context]) + 1).sum())
    if least > spread.totals.sum():
        raise CodecError(f"payload holds levels and gaps of {least} weights, {spread.totals.sum()} expected")
    return found


def _read(
    raw: RawBits, spread: Spread, symbols: NDArray[np.uint8], far: NDArray[np.intp], over: Ints, cut: Ints
) -> NDArray[np.int32]:
    """Starts and ranks from gaps."""
    found, last, previous = np.empty(len(symbols), np.int32), -1, -1
    size, ends = spread.totals.sum(), spread.starts + spread.totals
    for run, context in spread.runs():
        gaps = symbols[run].astype(np.int64)
        some = slice(*np.searchsorted(far, (run.start, run.stop)))
        gaps[far[some] - run.start] += over[some]
        gaps = (gaps << cut[context]) + raw.take(cut[context], None)
        if gaps.max() >= size:
            raise CodecError(f"payload holds a gap of {gaps.max()} weights; there are {size}")
        begins = np.flatnonzero(np.diff(context, prepend=previous))
        bases = spread.starts[context[begins]] - 1
        if context[0] == previous:
            begins, bases = np.concatenate([[0], begins]), np.concatenate([[last], bases])
        places = np.cumsum(gaps + 1)
        places += np.repeat(bases - places[begins] + gaps[begins] + 1, np.diff(begins, append=len(gaps)))
        if (places >= ends[context]).any():
            raise CodecError("payload holds a level beyond the weights of its context")
        found[run], last, previous = places, int(places[-1]), int(context[-1])
    return found
