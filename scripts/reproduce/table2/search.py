"""The search for a cell's learning rate: which place of the grid is next, and how far it has to run."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from scripts.reproduce.table2.cells import Cell

HOPELESS = 2  # times the paper's rounds: how far a cell's runs go while none has crossed
FAILURES = 5  # rates that do not cross, after which a cell is given up


@dataclass(frozen=True)
class Tried:
    """What one rate gave: the round it crossed at, or None; the rounds done; whether it diverged."""

    crossing: float | None
    rounds: int
    diverged: bool = False

    def settled(self, cap: int) -> bool:
        """More rounds would not change the search."""
        return self.crossing is not None or self.diverged or self.rounds >= cap


Table = Mapping[int, Tried]  # place → what it gave


@dataclass(frozen=True)
class Grid:
    """Learning rates `step` twelfths of a decade apart, of which 10^(offset/12) is one; offset is 0 or 1."""

    name: str
    step: int
    offset: int = 0

    def own(self, table: Table) -> dict[int, Tried]:
        """The rates tried by which this grid's search goes: it may have begun at a place of a finer one."""
        return {place: found for place, found in table.items() if place % 2 == self.offset}

    def strictly(self, table: Table) -> dict[int, Tried]:
        """Those at its own places."""
        return {place: found for place, found in table.items() if (place - self.offset) % self.step == 0}


COARSE, FINE, SHIFTED = Grid("10^(1/3)", 4), Grid("10^(1/6)", 2), Grid("10^(1/6) shifted", 2, 1)


def best(table: Table) -> int | None:
    """The place with the earliest crossing; None if there is none."""
    crossed = [(found.crossing, place) for place, found in table.items() if found.crossing is not None]
    return min(crossed)[1] if crossed else None


def cap(cell: Cell, table: Table) -> int:
    """The round after which a run cannot be better than the best; where there is none, HOPELESS × the paper's."""
    place = best(table)
    found = table[place].crossing if place is not None else None
    return math.ceil(found) if found is not None else HOPELESS * cell.rounds


def next_place(cell: Cell, table: Table, step: int) -> int | None:
    """The next rate to run on the grid that is `step` twelfths of a decade wide; None when the search is over.

    First the cell's own, then the neighbours of the best, smaller rate first, until both are worse than it. While
    none has crossed: outwards from the first, and over after FAILURES of them.
    """
    limit = cap(cell, table)
    settled = {place for place, found in table.items() if found.settled(limit)}
    middle = best(table)
    if middle is not None:
        return _first_not(settled, (middle, middle - step, middle + step))
    if len(settled) >= FAILURES:
        return None
    outwards = (cell.first + sign * way * step for way in range(FAILURES) for sign in (-1, 1))
    return _first_not(settled | {place for place in table if _hopeless(place, table)}, outwards)


def _hopeless(place: int, table: Table) -> bool:
    """A rate above one that diverged."""
    return any(found.diverged and other < place for other, found in table.items())


def _first_not(settled: set[int], places: Iterable[int]) -> int | None:
    return next((place for place in places if place not in settled), None)
