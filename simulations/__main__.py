"""Simulate a federation on this machine: the same server and client apps as in the field, without a network.

    python -m simulations --clients 100 --rounds 20 --dataset digits
    python -m simulations list                               the scenarios that come with fedlite
    python -m simulations devices                            the kinds of device there are, and their numbers
    python -m simulations mnist-shards --seed 3              one of them, with a setting changed
    python -m simulations strategies --run-dir runs/s        a sweep: simulations side by side, and one table
    python -m simulations --app path/to/flower_app --clients 100
    python -m simulations --dataset mnist --partition natural --clients 0 --cohort 50 --strategy fedprox:mu=0.01
    python -m simulations --clients 100 --cohort 10 --devices pi4:0.7,phone:0.3 --availability dropout:0.08
    python -m simulations --clients 100 --engine ray --address host:6379

Leaves a folder with config.json, metrics.jsonl, the model and report.html. The same --run-dir goes on after the
last finished round: after Ctrl-C as if never stopped; after kill -9, what virtual clients held and owed is forgotten.
More in docs/simulation.md.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from threading import Event
from typing import Any

from fedlite.apps.program import OK, main
from fedlite.config import build, from_mapping, given
from fedlite.errors import FedliteError, SettingsError
from simulations import scenarios
from simulations.config import Config


def body(argv: Sequence[str], stop: Event) -> int:
    """Parse, simulate, say where the results are."""
    if argv and argv[0] == "devices":
        from simulations.devices import table

        print(table())
        return OK
    if argv and argv[0] == "list":
        print("\n".join(f"{name:<16} {text}" for name, text in scenarios.names().items()))
        return OK
    settings: dict[str, Any] = {}
    sweep: dict[str, list[Any]] = {}
    if argv and not argv[0].startswith("-"):
        path, argv = scenarios.find(argv[0]), argv[1:]
        raw, sweep = scenarios.read(path)
        settings = from_mapping(Config, raw, source=str(path))
    flags = _flags(argv)
    settings |= flags
    sweep = {key: values for key, values in sweep.items() if key not in flags}
    if sweep:
        return _sweep(settings, sweep, stop)
    config = build(Config, settings)
    if config.app is not None:
        from simulations.foreign import KNOWS, run_app

        if odd := sorted(set(settings) - KNOWS):
            told = ", ".join(f"--{name.replace('_', '-')}" for name in odd)
            raise SettingsError(
                f"--app takes no {told}: the app alone says what is done",
                remedy=f"change it in the app; of these options it takes {', '.join(sorted(KNOWS))}",
            )
        done = run_app(config.app, clients=config.clients, workers=config.cores, seed=config.seed, stop=stop)
        if not done:
            print("stopped: what the app has saved so far is all there is")
        return OK
    from simulations.run import simulate

    model, folder = simulate(config, stop)
    if stop.is_set() and model.round_num < config.rounds:
        print(f"stopped after round {model.round_num} of {config.rounds}; the same command goes on")
    print(f"results: {folder}/report.html")
    return OK


def _flags(argv: Sequence[str]) -> dict[str, Any]:
    """What the command line sets. SettingsError, that a scenario's name comes first, where one comes later."""
    try:
        return given(Config, argv, prog="python -m simulations", description=__doc__ or "")
    except SettingsError as error:
        if late := set(argv) & set(scenarios.names()):
            name = sorted(late)[0]
            remedy = f"a scenario's name comes before its options: python -m simulations {name} …"
            raise SettingsError(error.args[0], remedy=remedy) from error
        raise


def _sweep(settings: dict[str, Any], sweep: dict[str, list[Any]], stop: Event) -> int:
    """Run a sweep's points, print the table of those that are done, say where the results are.

    FedliteError names those that failed.
    """
    from simulations import sweep as sweeps

    config = build(Config, settings)
    folder = config.run_dir or Path("runs") / "sweep"
    fixed = {key: value for key, value in settings.items() if key not in ("run_dir", "jobs")}
    points = sweeps.points(fixed, sweep, folder)
    failed = sweeps.run_sweep(points, jobs=config.jobs, stop=stop, tell=lambda text: print(text, flush=True))
    done = [point for point in points if point.done]
    print(sweeps.text_table(sweeps.table(done)))
    print(f"results: {sweeps.write(done, folder, f'{len(done)} of {len(points)} simulations')}")
    if failed:
        told = "; ".join(f"{point.name} (see {point.folder / 'log'})" for point in failed)
        raise FedliteError(f"{len(failed)} simulations failed: {told}", remedy="see their logs")
    return OK


if __name__ == "__main__":
    sys.exit(main(body))
