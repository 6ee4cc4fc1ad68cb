"""One simulation: the data set divided, a VirtualGrid of clients, the server app over it."""

import math
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from threading import Event

import torch

from fedlite import config as records
from fedlite.apps.job import Workshop, make_job, node, open_ledger, unsigned
from fedlite.apps.many import CohortApp
from fedlite.apps.report import recorder
from fedlite.apps.server import run
from fedlite.compress.codec import codec_by_name
from fedlite.crypto.files import locked
from fedlite.rounds import Model
from fedlite.uplink import Clear
from fedlite.virtual.grid import VirtualGrid
from simulations.config import Config
from simulations.population import Devices, Population, populate


def simulate(config: Config, stop: Event) -> tuple[Model, Path]:
    """Run to the end (or until `stop`), leave a results folder, return (last model, that folder)."""
    torch.set_num_threads(1)
    population, test = populate(config)
    folder = config.run_dir or Path("runs") / datetime.now().strftime(
        f"%Y%m%d-%H%M%S-{config.strategy.split(':')[0]}"
    )
    endless = replace(config, deadline_seconds=math.inf)  # a loaded machine must not change a result
    workshop = Workshop(endless, test)
    devices = Devices(population, forgetful=codec_by_name(config.uplink_codec).lossless)
    app = CohortApp(devices.of, threads=config.workers, kernel=config.engine != "torch")
    division = {"clients": config.clients, "partition": config.partition}
    with (
        locked(folder, wait=False),
        open_ledger(workshop, folder / "ledger.db", folder, **division) as ledger,
        VirtualGrid(app, len(population), workers=config.workers) as grid,
        recorder(
            folder, records.record(config), config.rounds, _title(config, population), ledger
        ) as watcher,
    ):
        model = run(grid, make_job(workshop, Clear(), unsigned, node), ledger, watcher, stop)
        workshop.write(folder, model)
    return model, folder


def _title(config: Config, population: Population) -> str:
    return f"{len(population):,} clients of {config.dataset}, {config.strategy}"
