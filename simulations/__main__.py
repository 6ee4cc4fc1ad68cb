"""Simulate a federation on this machine: the same server and client apps as in the field, without a network.

    python -m simulations --clients 100 --rounds 20 --dataset digits
    python -m simulations --app path/to/flower_app --clients 100
    python -m simulations --dataset mnist --partition natural --clients 0 --cohort 50 --strategy fedprox:mu=0.01

Leaves a folder with config.json, metrics.jsonl, the model and report.html. The same --run-dir resumes; what
virtual clients still owed of their codec's losses is forgotten then.
"""

import sys
from collections.abc import Sequence
from threading import Event

from fedlite.apps.program import OK, main
from fedlite.config import parse
from simulations.config import Config


def body(argv: Sequence[str], stop: Event) -> int:
    """Parse, simulate, say where the results are."""
    config = parse(Config, argv, prog="python -m simulations", description=__doc__ or "")
    if config.app is not None:
        from simulations.foreign import run_app

        run_app(config.app, clients=config.clients, workers=config.workers, seed=config.seed)
        return OK
    from simulations.run import simulate

    _, folder = simulate(config, stop)
    print(f"results: {folder}/report.html")
    return OK


if __name__ == "__main__":
    sys.exit(main(body))
