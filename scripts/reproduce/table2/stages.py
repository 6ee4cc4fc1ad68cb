"""In which order the table is filled: what shows most for its time comes first; every stage can be done again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.reproduce.table2 import run, search
from scripts.reproduce.table2.cells import CELLS, Cell, rate

PLACES = range(-24, 7)  # 10^-4 … 10^1
COARSE, FINE = 2, 1  # sixths of a decade

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Stage:
    """Cells, and how far they are taken: their first rate, all neighbours at `step`, the other seeds."""

    cells: Sequence[Cell]
    step: int | None = None
    seeds: bool = False


def plan(names: Sequence[str]) -> list[Stage]:
    """The stages for these cells, in this order: cheap first, the paper's fine grid and other seeds last."""
    cells = [CELLS[name] for name in names]
    quick = [cell for cell in cells if cell.wanted and cell.partition == "iid" and cell.epochs < 20]
    slow = [cell for cell in cells if cell.wanted and cell not in quick]
    rest = [cell for cell in cells if not cell.wanted]
    return [
        Stage(quick),
        Stage(quick, COARSE),
        *(Stage([cell]) for cell in slow),
        *(Stage([cell], COARSE) for cell in slow),
        Stage(quick, FINE),
        Stage(quick, seeds=True),
        Stage(slow, FINE),
        Stage(slow, seeds=True),
        *(Stage([cell], COARSE) for cell in rest),
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
            if stage.seeds:
                _other_seeds(world, folder, cell, seeds, tell)
            else:
                _search(world, folder, cell, stage.step, seeds[0], tell)


def _search(world: run.World, folder: Path, cell: Cell, step: int | None, seed: int, tell: Tell) -> None:
    while True:
        table = tried(folder, cell, seed)
        if step is None and any(found.settled(search.cap(cell, table)) for found in table.values()):
            return
        place = search.next_place(cell, table, step or COARSE)
        if place is None or place not in PLACES:
            return
        _run(world, folder, cell, place, seed, search.cap(cell, table), tell)


def _other_seeds(world: run.World, folder: Path, cell: Cell, seeds: Sequence[int], tell: Tell) -> None:
    """The best rate of the first seed, once for each other, to the paper's rounds twice at most."""
    place = search.best(tried(folder, cell, seeds[0]))
    if place is None:
        return
    for seed in seeds[1:]:
        if not tried(folder, cell, seed).get(place, search.Tried(None, 0)).settled(limit(cell)):
            _run(world, folder, cell, place, seed, limit(cell), tell)


def limit(cell: Cell) -> int:
    """The round after which a run that could still be the best is given up."""
    return search.HOPELESS * cell.rounds


def _run(world: run.World, folder: Path, cell: Cell, place: int, seed: int, cap: int, tell: Tell) -> None:
    state = run.advance(world, cell, place, seed, cap, run.place_of(folder, cell, place, seed))
    end = "diverged" if state.diverged else f"> {len(state.curve)}"
    if state.crossing is not None:
        end = f"{state.crossing:.2f} rounds"
    tell(f"{cell.name:<14} rate {rate(place):<7g} seed {seed}  {end}  ({state.seconds:.0f} s)")
