"""A peer that knows the format: well-formed streams of symbols that no honest writer would choose."""

from random import Random

import numpy as np
from numpy.typing import NDArray

from fedlite.compress import levels
from fedlite.compress.bits import BitWriter
from fedlite.compress.contexts import Ints, grids_of
from fedlite.compress.entropy import Mixed, Writer
from fedlite.compress.layout import Tensor


class Liar(Writer):
    """Writes some symbols other than it is given, and says so to whoever goes on writing, so that a reader follows."""

    def __init__(self, lanes: int, rng: Random) -> None:
        super().__init__(lanes)
        self._chance = np.random.default_rng(rng.getrandbits(64))
        self._rate = rng.choice((0.0005, 0.01, 0.2))

    def symbols(self, frequencies: Ints, count: int, values: NDArray[np.int64] | None) -> Ints:
        assert values is not None
        return super().symbols(frequencies, count, self._lie(values, np.flatnonzero(frequencies)))

    def mixed(self, tables: Ints) -> Mixed:
        write, possible = super().mixed(tables), np.arange(tables.shape[1])

        def run(which: Ints, values: NDArray[np.int64] | None) -> Ints:
            assert values is not None
            some = self._lie(values, possible)
            return write(which, np.where(tables[which, some] > 0, some, values))

        return run

    def _lie(self, values: NDArray[np.int64], possible: Ints) -> NDArray[np.int64]:
        lies = self._chance.random(len(values)) < self._rate
        drawn = possible[self._chance.integers(0, len(possible), len(values))]
        return np.where(lies, drawn, values)


def encode(rng: Random, values: levels.Levels, tensors: tuple[Tensor, ...]) -> bytes:
    """Levels as `fedlite.compress.levels.encode` writes them, but for lies; raises anything where these do not fit."""
    grids = grids_of(tensors)
    found = [levels._find(values[grid.places]) for grid in grids]
    count = sum(len(each.levels) for each in found)
    writer, raw = Liar(levels.lanes_for(count), rng), BitWriter()
    for _ in levels._model(writer, raw, grids, count, found):
        pass
    coded = writer.finish()
    return levels._HEAD.pack(count, len(coded)) + coded + raw.finish()
