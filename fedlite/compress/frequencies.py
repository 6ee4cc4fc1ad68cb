"""Tables of symbol frequencies, sent ahead of what they code: each probability to a quarter of an octave."""

import numpy as np
from numpy.typing import NDArray

from fedlite.compress.contexts import below
from fedlite.compress.entropy import MIXED_UNIT, SCALE, Coder, Ints, code

WIDTH = 64  # symbols of a table, at most
_ABSENT = 63
QUARTERS = np.rint(2.0 ** (20 - np.arange(_ABSENT) / 4)).astype(np.int64)  # weights of 0 … 62
QUARTER_SHARES = 2.0 ** (-(np.arange(_ABSENT - 1) + 0.5) / 4)  # k is sent for what is below k of them


def tables(coder: Coder, used: NDArray[np.bool_], counts: Ints | None) -> Ints:
    """(tables, WIDTH) frequencies for `Coder.mixed`; those not used are of no use.

    `counts` (tables, WIDTH): how often each symbol comes, when writing; a used table has some.
    """
    chosen = None if counts is None else _rounded(counts[used])
    lengths = None if chosen is None else WIDTH - np.argmax((chosen != _ABSENT)[:, ::-1], axis=1)
    size = int(np.count_nonzero(used))
    lengths = 1 + code(coder, size, WIDTH, None if lengths is None else lengths - 1)
    sent = np.arange(WIDTH) < lengths[:, None]
    parts = np.full((size, WIDTH), _ABSENT)
    parts[sent] = code(coder, int(lengths.sum()), WIDTH, None if chosen is None else chosen[sent])
    found = np.zeros((len(used), WIDTH), np.int64)
    found[:, 0] = SCALE
    found[used] = _normalised(parts)
    return found


def _rounded(counts: Ints) -> Ints:
    share = counts / counts.sum(axis=1, keepdims=True)
    return np.where(counts > 0, below(QUARTER_SHARES, share), _ABSENT)


def _normalised(parts: Ints) -> Ints:
    """Multiples of MIXED_UNIT that sum to SCALE, at least one for each symbol that is not absent."""
    weights = np.where(parts == _ABSENT, 0, QUARTERS[np.minimum(parts, _ABSENT - 1)])
    weights[:, 0] += weights.sum(axis=1) == 0  # nothing at all: no writer's
    present = weights > 0
    room = SCALE // MIXED_UNIT - np.count_nonzero(present, axis=1, keepdims=True)
    units = present + weights * room // weights.sum(axis=1, keepdims=True)
    units[np.arange(len(units)), np.argmax(weights, axis=1)] += SCALE // MIXED_UNIT - units.sum(axis=1)
    found: Ints = units * MIXED_UNIT
    return found
