"""In which order the table is filled: what shows most for its time comes first; every stage can be done again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from scripts.reproduce.table2 import run, search
from scripts.reproduce.table2.cells import CELLS, Cell, rate

PLACES = range(-48, 13)  # 10^-4 … 10^1

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Stage:
    """Cells, and how far they are taken: their first rate, or all neighbours on a grid; by the first seed, or `all`."""

    cells: Sequence[Cell]
    grid: search.Grid | None = None
    all: bool = False


def plan(names: Sequence[str]) -> list[Stage]:
    """The stages for these cells, in this order: cheap first, finer grids and other seeds last."""
    cells = [CELLS[name] for name in names]
    quick = [cell for cell in cells if cell.wanted and cell.partition == "iid" and cell.epochs < 20]
    slow = [cell for cell in cells if cell.wanted and cell not in quick]
    rest = [cell for cell in cells if not cell.wanted]
    return [
        Stage(quick),
        Stage(quick, search.COARSE),
        *(Stage([cell]) for cell in slow),
        *(Stage([cell], search.COARSE) for cell in slow),
        Stage(quick, search.FINE, all=True),
        Stage(quick, search.SHIFTED, all=True),
        Stage(slow, search.FINE, all=True),
        *(Stage([cell], search.COARSE) for cell in rest),
    ]


def tried(folder: Path, cell: Cell, seed: int) -> dict[int, search.Tried]:
    """What is known of a cell's rates."""
    files = {place: run.place_of(folder, cell, place, seed) for place in PLACES}
    states = {place: run.load(file, curve_only=True) for place, file in files.items() if file.exists()}
    return {
        place: search.Tried(state.crossing, len(state.curve), state.diverged)
        for place, state in states.items()
    }


def measure(
    world: run.World, folder: Path, stages: Sequence[Stage], seeds: Sequence[int], tell: Tell
) -> None:
    """Fill the table; what is there already is not run again. `tell` hears of every run that ends."""
    for stage in stages:
        for cell in stage.cells:
            for seed in seeds if stage.all else seeds[:1]:
                _search(world, folder, near(folder, cell, seeds[0], stage.grid), stage.grid, seed, tell)


def near(folder: Path, cell: Cell, seed: int, grid: search.Grid | None) -> Cell:
    """The cell, whose search on the grid begins beside the best rate of this seed, if there is one."""
    table = tried(folder, cell, seed)
    place = search.best(grid.own(table) if grid else table)
    if place is None and grid is not None:
        place = (search.best(table) or cell.first) + grid.offset
    return cell if place is None else replace(cell, first=place)


def _search(
    world: run.World, folder: Path, cell: Cell, grid: search.Grid | None, seed: int, tell: Tell
) -> None:
    while True:
        table: search.Table = tried(folder, cell, seed)
        if grid is None and any(found.settled(search.cap(cell, table)) for found in table.values()):
            return
        table = grid.own(table) if grid else table
        place = search.next_place(cell, table, grid.step if grid else search.COARSE.step)
        if place is None or place not in PLACES:
            return
        _run(world, folder, cell, place, seed, search.cap(cell, table), tell)


def limit(cell: Cell) -> int:
    """The round after which a run that could still be the best is given up."""
    return search.HOPELESS * cell.rounds


def _run(world: run.World, folder: Path, cell: Cell, place: int, seed: int, cap: int, tell: Tell) -> None:
    state = run.advance(world, cell, place, seed, cap, run.place_of(folder, cell, place, seed))
    end = "diverged" if state.diverged else f"> {len(state.curve)}"
    if state.crossing is not None:
        end = f"{state.crossing:.2f} rounds"
    tell(f"{cell.name:<14} rate {rate(place):<7g} seed {seed}  {end}  ({state.seconds:.0f} s)")
