"""Rounds to 99 % on MNIST: the CNN rows of McMahan et al. 2017 (AISTATS), Table 2, measured again.

    python scripts/reproduce/fedavg.py --data-dir DATA            fill the whole table (many hours on one core)
    python scripts/reproduce/fedavg.py --cells iid-e1-b10,iid-e5-b10
    python scripts/reproduce/fedavg.py --quick                    one cell, 100 seconds, nothing kept
    python scripts/reproduce/fedavg.py --report                   print docs/results/fedavg_table2.json; runs nothing
    python scripts/reproduce/fedavg.py --collect                  write that file and its plot from the cache

100 clients of 600 images, 10 drawn per round (C = 0.1); IID: shuffled; non-IID: sorted by label, 200 shards of 300,
two to a client. A cell is E epochs and batches of B (inf: all 600; E = 1 is FedSGD). Its number is the round at which
the test accuracy, made monotone, crosses 99 %, interpolated between rounds, at the best learning rate of a grid
10^(1/3), then 10^(1/6) apart, then of another such grid, shifted by half of that: a rate is run until it crosses or
cannot beat the best so far on its grid, and its neighbours until both are worse. The paper's number is one run's, the
best of its grid: ours is the mean of several seeds, each the best of its own. Kill it when you like: every run goes on
from the cache where it was, and none is done twice.

Before the JSON object in the last line comes the table. `ours` is null where a cell has not been measured; `so_far`
then says ">N" for N rounds without crossing. `searched` says down to which grid both neighbours of each rate are
worse, `on_grid` what each gives alone, `at_one_rate` the least mean where all seeds have the same rate.
"""

import argparse
import fcntl
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from fedlite.errors import FedliteError  # noqa: E402
from scripts.reproduce.table2 import plot, report, run, stages  # noqa: E402
from scripts.reproduce.table2.cells import CELLS, rate  # noqa: E402

RESULTS = ROOT / "docs/results/fedavg_table2.json"
QUICK_CELL, QUICK_SECONDS = "iid-e1-b10", 100.0


def main() -> int:
    args = _arguments()
    try:
        _do(args)
    except FedliteError as error:
        sys.exit(str(error))
    return 0


def _do(args: argparse.Namespace) -> None:
    if args.report:
        if not args.report.is_file():
            sys.exit(f"{args.report} is missing: --collect writes it from what was measured")
        print(f"plot: {args.report.with_suffix('.svg')}")
        show(json.loads(args.report.read_text()))
    elif args.collect:
        found = report.collect(args.cache, args.seeds)
        write(found, args.collect)
        show(found)
    elif args.quick:
        quick(run.mnist(args.data_dir, args.threads), args.seeds)
    else:
        args.cache.mkdir(parents=True, exist_ok=True)
        with (args.cache / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                sys.exit(f"another run is filling {args.cache}; give --cache another folder, or wait for it")
            world = run.mnist(args.data_dir, args.threads)
            stages.measure(world, args.cache, stages.plan(args.cells), args.seeds, _tell)
        show(report.collect(args.cache, args.seeds))


def quick(world: run.World, seeds: Sequence[int]) -> None:
    """One cell at its first rate, from the start, as far as the time allows."""
    cell, end, state = CELLS[QUICK_CELL], time.monotonic() + QUICK_SECONDS, run.State()
    with tempfile.TemporaryDirectory() as name:
        file = run.place_of(Path(name), cell, cell.first, seeds[0])
        while not state.over and time.monotonic() < end:
            state = run.advance(world, cell, cell.first, seeds[0], len(state.curve) + 1, file)
            text = f"{cell.name} rate {rate(cell.first):g}  round {len(state.curve)}  {state.curve[-1]:.2%}"
            print(text, file=sys.stderr, flush=True)
        found = report.collect(Path(name), seeds[:1])
    found["cells"] = {cell.name: found["cells"][cell.name]}
    show(found)


def show(results: dict[str, Any]) -> None:
    """A table for people, then one JSON line for programs."""
    print("\n".join(report.lines(results)))
    print(json.dumps(report.brief(results)), flush=True)


def write(results: dict[str, Any], file: Path) -> None:
    """The results with their curves, one line a cell and key, and the plot beside them."""
    file.parent.mkdir(parents=True, exist_ok=True)
    cells = ",\n".join(f"  {json.dumps(name)}: {json.dumps(each)}" for name, each in results["cells"].items())
    rest = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in results.items() if key != "cells"]
    file.write_text("{" + ",\n".join([*rest, f'"cells": {{\n{cells}\n}}']) + "}\n")
    file.with_suffix(".svg").write_text(plot.svg(results))


def _tell(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {line}", file=sys.stderr, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--quick", action="store_true", help=f"only {QUICK_CELL}, for {QUICK_SECONDS:.0f} seconds"
    )
    what.add_argument(
        "--report",
        type=Path,
        nargs="?",
        const=RESULTS,
        metavar="FILE",
        help="print these results, run nothing",
    )
    what.add_argument(
        "--collect", type=Path, nargs="?", const=RESULTS, metavar="FILE",
        help="write the results in the cache to FILE, the plot beside it, and print them; also while a run goes on",
    )  # fmt: skip
    parser.add_argument("--cells", type=_cells, default=[*CELLS], help=f"some of {','.join(CELLS)}")
    parser.add_argument(
        "--seeds", type=_seeds, default=[1, 2, 3],
        help="the rate is searched with the first, then near its best with each other (default 1,2,3)",
    )  # fmt: skip
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser.add_argument("--threads", type=int, default=cores, help="cores to use; the result is the same")
    parser.add_argument(
        "--cache", type=Path, default=ROOT / "run/reproduce/fedavg", help="where the runs are kept"
    )
    data = ROOT.parent / "shared/data"
    parser.add_argument(
        "--data-dir", type=Path, default=data if data.is_dir() and "FEDLITE_DATA" not in os.environ else None,
        help="holds mnist/mnist.npz; else $FEDLITE_DATA, else torchvision downloads it",
    )  # fmt: skip
    return parser.parse_args()


def _cells(text: str) -> list[str]:
    if odd := [each for each in text.split(",") if each not in CELLS]:
        raise argparse.ArgumentTypeError(f"there is no cell {', '.join(odd)}; there are {', '.join(CELLS)}")
    return [name for name in CELLS if name in text.split(",")]


def _seeds(text: str) -> list[int]:
    return [int(each) for each in text.split(",")]


if __name__ == "__main__":
    sys.exit(main())
