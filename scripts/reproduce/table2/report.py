"""The results: collected from the runs, as a table for people, and as one JSON object."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from scripts.reproduce.table2 import run, search, stages
from scripts.reproduce.table2.cells import CELLS, CLIENTS, COHORT, TARGET, Cell, rate

PAPER = "McMahan et al. 2017 (AISTATS), Table 2: CNN, MNIST, C = 0.1"
GRIDS = (search.COARSE, search.FINE, search.SHIFTED)
WITHIN = 1.25  # of the paper's rounds, or fewer: what counts as reproduced

Entry = dict[str, Any]


def collect(folder: Path, seeds: Sequence[int]) -> dict[str, Any]:
    """All that the runs in `folder` show so far."""
    commits: set[str] = set()
    cells = {name: _entry(folder, cell, seeds, commits) for name, cell in CELLS.items()}
    return {
        "paper": PAPER,
        "cells": cells,
        **figures(cells),
        "settings": {
            "dataset": "mnist",
            "model": "cnn",
            "clients": CLIENTS,
            "cohort": COHORT,
            "target": TARGET,
            "beginning": "weights as He et al. 2015, biases and the last layer 0",
            "optimizer": "sgd, no momentum; one rate for all rounds, of each seed the best of two grids 10^(1/6) apart",
            "test": "every round, all images unless more than "
            f"{100 * run.ENOUGH_ERRORS:g} % are wrong: then those seen until there, in random order",
        },
        "seed": seeds[0],
        "commit": ", ".join(sorted(commits - {""})) or None,
    }


def figures(cells: Mapping[str, Entry]) -> dict[str, float | None]:
    """The three numbers that say how it went; worst over the wanted cells, null until all of them are measured."""
    wanted = {name: cells[name]["ratio"] for name, cell in CELLS.items() if cell.wanted and name in cells}
    worst: dict[str, float | None] = {}
    for partition in ("iid", "noniid"):
        ratios = [ratio for name, ratio in wanted.items() if CELLS[name].partition == partition]
        worst[partition] = max(ratios) if ratios and None not in ratios else None
    return {
        "iid_e5_b10_rounds": cells["iid-e5-b10"]["ours"] if "iid-e5-b10" in cells else None,
        "worst_ratio_iid": worst["iid"],
        "worst_ratio_noniid": worst["noniid"],
    }


def _entry(folder: Path, cell: Cell, seeds: Sequence[int], commits: set[str]) -> Entry:
    """One cell. `ours` is null until it is measured; `so_far` then says how far it is."""
    tables = {seed: table for seed in seeds if (table := stages.tried(folder, cell, seed))}
    places = {seed: _shown(table) for seed, table in tables.items()}
    states = {seed: _state(folder, cell, place, seed) for seed, place in places.items()}
    commits.update(state.commit for state in states.values())
    crossings = {seed: state.crossing for seed, state in states.items() if state.crossing is not None}
    failed = [seed for seed, state in states.items() if seed not in crossings and _given_up(cell, state)]
    ours = round(mean(crossings.values()), 2) if crossings and not failed else None
    first = tables.get(seeds[0], {})
    return {
        "partition": cell.partition,
        "epochs": cell.epochs,
        "batch_size": cell.batch_size or "inf",
        "paper": cell.rounds,
        "ours": ours,
        "ratio": round(ours / cell.rounds, 3) if ours is not None else None,
        "learning_rate": rate(places[seeds[0]]) if first else None,
        "searched": _searched(cell, tables.values()),
        "seeds": [*crossings],
        "crossings": [round(value, 2) for value in crossings.values()],
        "unfinished_seeds": {seed: _end(_tried(s)) for seed, s in states.items() if s.crossing is None},
        "so_far": f"{_end(_tried(states[failed[0]]))} with seed {failed[0]}" if failed else _so_far(first),
        "rates": {
            seed: {f"{rate(each):g}": _end(t[each]) for each in sorted(t)} for seed, t in tables.items()
        },
        "at_one_rate": _at_one_rate(tables),
        "on_grid": {grid.name: _mean_of_bests(map(grid.strictly, tables.values())) for grid in GRIDS},
        "curve": [round(value, 4) for value in states[seeds[0]].curve] if seeds[0] in states else [],
    }


def _shown(table: search.Table) -> int:
    """The best rate's place, or where none has crossed that of most rounds."""
    place = search.best(table)
    return max(table, key=lambda each: table[each].rounds) if place is None else place


def _state(folder: Path, cell: Cell, place: int, seed: int) -> run.State:
    return run.load(run.place_of(folder, cell, place, seed), curve_only=True)


def _given_up(cell: Cell, state: run.State) -> bool:
    return state.diverged or len(state.curve) >= stages.limit(cell)


def _at_one_rate(tables: Mapping[int, search.Table]) -> Entry | None:
    """The least mean over all seeds at one rate, of those at which all have crossed; None if there is none."""
    rounds: list[tuple[float, int]] = []
    for place in set[int]().union(*tables.values()):
        ends = [table[place].crossing for table in tables.values() if place in table]
        crossed = [end for end in ends if end is not None]
        if len(crossed) == len(tables):
            rounds.append((mean(crossed), place))
    if not rounds:
        return None
    least, place = min(rounds)
    return {"learning_rate": rate(place), "rounds": round(least, 2)}


def _mean_of_bests(tables: Iterable[search.Table]) -> float | None:
    """The mean over seeds of each one's best; None where there is none, or one has not crossed."""
    bests = [(search.best(table), table) for table in tables]
    crossed = [table[place].crossing for place, table in bests if place is not None]
    rounds = [value for value in crossed if value is not None]
    return round(mean(rounds), 2) if rounds and len(rounds) == len(bests) else None


def _searched(cell: Cell, tables: Collection[search.Table]) -> str:
    """Down to which grid both neighbours of each seed's best rate are known to be worse."""
    for grids in ((search.FINE, search.SHIFTED), (search.FINE,), (search.COARSE,)):
        if tables and all(_is_searched(cell, grid, table) for grid in grids for table in tables):
            return grids[-1].name
    return "not yet"


def _is_searched(cell: Cell, grid: search.Grid, table: search.Table) -> bool:
    own = grid.own(table)
    return search.best(own) is not None and search.next_place(cell, own, grid.step) is None


def _so_far(table: search.Table) -> str | None:
    """How many rounds were done without crossing, where that is all there is."""
    if search.best(table) is not None:
        return None
    return f">{max(found.rounds for found in table.values())}" if table else "not run"


def _tried(state: run.State) -> search.Tried:
    return search.Tried(state.crossing, len(state.curve), state.diverged)


def _end(found: search.Tried) -> float | str:
    if found.crossing is not None:
        return round(found.crossing, 2)
    return f"diverged at {found.rounds}" if found.diverged else f">{found.rounds}"


def lines(results: Mapping[str, Any]) -> Iterator[str]:
    """The table, the paper's number and ours side by side."""
    yield results["paper"]
    yield (
        f"rounds to {100 * TARGET:g} % test accuracy; ratio = ours / paper; at most {WITHIN} wanted where marked *"
    )
    yield f"{'cell':<18}{'E':>4}{'B':>5}{'paper':>8}{'ours':>9}{'ratio':>8}{'rate':>9}  {'grid':<17}seeds"
    for name, each in results["cells"].items():
        ours = f"{each['ours']:.1f}" if each["ours"] is not None else (each["so_far"] or "")
        ratio = f"{each['ratio']:.2f}" if each["ratio"] is not None else "-"
        chosen = f"{each['learning_rate']:g}" if each["learning_rate"] is not None else "-"
        marked = f"{name}{' *' if name in CELLS and CELLS[name].wanted else ''}"
        yield (
            f"{marked:<18}{each['epochs']:>4}{each['batch_size']:>5}{each['paper']:>8}{ours:>9}{ratio:>8}"
            f"{chosen:>9}  {each['searched']:<17}{_seeds(each)}"
        )


def _seeds(each: Entry) -> str:
    crossed = [f"{seed}: {value:.1f}" for seed, value in zip(each["seeds"], each["crossings"], strict=True)]
    return ", ".join([*crossed, *(f"{seed}: {done}" for seed, done in each["unfinished_seeds"].items())])


def brief(results: Mapping[str, Any]) -> dict[str, Any]:
    """The results without the curves: one line for programs."""
    cells = {
        name: {key: value for key, value in each.items() if key != "curve"}
        for name, each in results["cells"].items()
    }
    return {**results, "cells": cells}
