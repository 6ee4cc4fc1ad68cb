"""Where a tensor's live weights are, coded close to what their arrangement tells: dead rows, dead columns, clusters.

The mask is a matrix (rows, columns). First it is told which rows and columns have live weights at all; then the others
are coded, column by column. Each bit is predicted from what is decoded already: how
much of its row was live, how much of the columns beside it, and its neighbours in the row, where a neighbour is also
the weight `width` columns earlier: the pixel above, when a row is an image. The predictions are mixed in the logistic
domain with weights that learn on the way. (Mahoney 2005, "Adaptive weighing of context models", §3)

Both directions must compute the same bits on every machine, so all that is used is IEEE addition, multiplication and
division of single elements, which round alike everywhere, and sums of integers.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedlite.compress import entropy
from fedlite.compress.entropy import SCALE, Coder, normalised

Bits = NDArray[np.bool_]
Floats = NDArray[np.float64]

MODELS = 7
RATE = 0.008  # of the mixer
ONE_BY_ONE = 1 << 13  # flags of so many rows or columns each learn from the one before; of more, blocks do
_FIXED = 2.0**20  # gradients are summed in integers of this step
_CELLS = 6 * 5 * 16  # contexts of the table of neighbours


def code_mask(
    coder: Coder,
    rows: int,
    columns: int,
    width: int,
    mask: Bits | None = None,
    hints: tuple[Bits | None, Bits | None] = (None, None),
) -> Bits:
    """The mask, bool (rows, columns); what is passed in is written, or with None it is read.

    `width` ≥ 1 is the distance of the second neighbour; of columns or more there is none. `hints`, known to both
    sides, are flags that those of the rows (rows,), and of the columns (columns,), may resemble.
    """
    across = code_flags(coder, rows, rows, _any(mask, 1), hints[0])
    down = code_flags(coder, columns, width, _any(mask, 0), hints[1])
    state = _State(int(np.count_nonzero(across)), columns, width)
    found = np.zeros((columns, state.rows), np.bool_)
    for column in np.flatnonzero(down) if state.rows else ():
        inputs, cells = state.inputs(found, int(column))
        live = squash(_mix(inputs, state.weights))
        zeros = SCALE - np.clip(np.rint(live * SCALE), 1, SCALE - 1).astype(np.int64)
        found[column] = coder.bits(zeros, None if mask is None else mask[across, column])
        state.learn(int(column), found[column], live, inputs, cells)
    whole = np.zeros((rows, columns), np.bool_)
    whole[across] = found.T
    return whole


def _any(mask: Bits | None, axis: int) -> Bits | None:
    return None if mask is None else np.asarray(mask.any(axis))


def code_flags(
    coder: Coder, count: int, width: int, flags: Bits | None = None, hint: Bits | None = None
) -> Bits:
    """Which of `count` rows or columns have a live weight, by their hint, the one before and the one `width` before.

    More than ONE_BY_ONE are told by their hint alone: first those hinted dead, then those hinted live, in blocks.
    """
    kinds = np.zeros(count, np.int64) if hint is None else hint.astype(np.int64)
    found = np.zeros(count, np.bool_)
    if count > ONE_BY_ONE:
        for kind in (0, 1):
            chosen = kinds == kind
            part = None if flags is None else flags[chosen]
            found[chosen] = entropy.code(coder, int(np.count_nonzero(chosen)), 2, part).astype(np.bool_)
        return found
    seen = np.ones((2, 3, 3, 2), np.int64)
    for place in range(count):
        before = int(found[place - 1]) if place else 2
        above = int(found[place - width]) if place >= width else 2
        counts = seen[kinds[place], before, above]
        zeros = normalised(counts)[:1]
        [found[place]] = coder.bits(zeros, None if flags is None else flags[place : place + 1])
        counts[int(found[place])] += 2
    return found


@dataclass
class _State:
    """What the model has learned so far."""

    rows: int
    columns: int
    width: int

    def __post_init__(self) -> None:
        self.history = np.zeros(self.rows, np.int64)  # live weights of each row so far
        self.recent = np.zeros(self.rows, np.float64)  # the same, older ones counting less
        self.totals = np.zeros(self.columns, np.int64)  # live weights of each column
        self.seen = 0
        self.done = 0  # columns coded
        self.table = np.zeros((3, _CELLS, 2), np.int64)
        self.weights = np.array([0.3, 0.2, 0.2, 0.3, 0.2, 0.1, 0.0])

    def inputs(self, found: Bits, column: int) -> tuple[Floats, NDArray[np.int64]]:
        """(predictions in the logistic domain (rows, MODELS), the cells of the table each row is in)."""
        near = [self._column(found, column - step) for step in (1, 2, self.width)]
        around = [self._column(found, column - self.width + step) for step in (-1, 1)]
        far = self._column(found, column - 2 * self.width)
        average = (2 * self.seen + 1) / (2 * self.rows * self.done + 8)
        row = (self.history + 4 * average) / (self.done + 4)
        beside = self._beside(column, average)
        neighbours = near[0] + 2 * near[2] + 4 * (near[1] | far) + 8 * (around[0] | around[1])
        level = np.minimum(_level(self.history / (self.done + 1), average), 5)
        height = int(_level(np.array([beside]), average)[0])
        counted = near[0] + near[1] + near[2] + around[0] + around[1] + far
        cells = np.stack(
            [
                (level * 5 + min(height, 4)) * 16 + neighbours,
                counted * 6 + level,
                np.minimum(self.history, 15) * 5 + min(height, 4),
            ]
        )
        hits, misses = (np.stack([self.table[i, cells[i], k] for i in range(3)]) for k in (1, 0))
        tables = (hits + 2 * average) / (hits + misses + 2)
        columns = [
            stretch(row),
            np.full(self.rows, stretch(np.array([beside]))[0]),
            stretch(tables[0]),
            stretch(tables[1]),
            stretch(tables[2]),
            stretch((self.recent + 2 * average) / (min(self.done, 16) + 2)),
            np.full(self.rows, 0.3),
        ]
        return np.stack(columns, 1), cells

    def _column(self, found: Bits, column: int) -> NDArray[np.int64]:
        return found[column].astype(np.int64) if column >= 0 else np.zeros(self.rows, np.int64)

    def _beside(self, column: int, average: float) -> float:
        """The share of live weights in the columns next to this one."""
        places = [column - step for step in (1, 2, self.width, self.width - 1, self.width + 1)]
        inside = [self.totals[place] for place in places if 0 <= place < column]
        return (int(sum(inside)) + 2 * average) / (len(inside) * self.rows + 2)

    def learn(self, column: int, bits: Bits, live: Floats, inputs: Floats, cells: NDArray[np.int64]) -> None:
        """Count a coded column, and move the mixer down its slope."""
        column_bits = bits.astype(np.int64)
        error = bits - live
        slope = np.rint(error[:, None] * inputs * _FIXED).astype(np.int64).sum(0) / _FIXED
        self.weights = self.weights + RATE * slope / (4 + 0.02 * self.rows)
        self.history += column_bits
        self.recent = self.recent * (15 / 16) + bits
        self.totals[column] = int(column_bits.sum())
        self.done += 1
        self.seen += int(column_bits.sum())
        for i in range(3):
            np.add.at(self.table[i], (cells[i], column_bits), 1)


def _mix(inputs: Floats, weights: Floats) -> Floats:
    """Σ weights · inputs, added in the models' order."""
    total: Floats = inputs[:, 0] * weights[0]
    for index in range(1, MODELS):
        total = total + inputs[:, index] * weights[index]
    return total


def _level(share: Floats, average: float) -> NDArray[np.int64]:
    """0 … 5: none, then a share against the average: below 1/4, 1, 2, 4, above."""
    edges = np.array([0.25, 1.0, 2.0, 4.0]) * average
    return np.asarray(np.where(share > 0, 1 + np.searchsorted(edges, share), 0), np.int64)


def stretch(share: Floats) -> Floats:
    """ln(p / (1 − p)), p kept inside (0, 1)."""
    inside = np.clip(share, 1e-5, 1 - 1e-5)
    return _log(inside / (1 - inside))


def squash(odds: Floats) -> Floats:
    """1 / (1 + e^−x), the inverse of stretch."""
    return 1 / (1 + _exp(-np.clip(odds, -12, 12)))


def _log(x: Floats) -> Floats:
    """The natural logarithm to about 1e-4: m = 2 (z + z³/3 + z⁵/5), z = (m − 1)/(m + 1), and 2^e."""
    part, exponent = np.frexp(x)
    z = (part - 0.75) / (part + 0.75)
    square = z * z
    return 2 * z * (1 + square * (1 / 3 + square * 0.2)) - 0.2876820724517809 + exponent * 0.6931471805599453


def _exp(x: Floats) -> Floats:
    """e^x to about 1e-4: 2^whole · a polynomial of the rest."""
    scaled = x * 1.4426950408889634
    whole = np.floor(scaled)
    rest = (scaled - whole) * 0.6931471805599453
    value: Floats = 1 + rest * (1 + rest * (0.5 + rest * (1 / 6 + rest * (1 / 24 + rest / 120))))
    return np.asarray(np.ldexp(value, whole.astype(np.int32)))
