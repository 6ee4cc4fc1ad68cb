"""One simulation: the data set divided, a VirtualGrid of clients, the server app over it."""

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from threading import Event
from weakref import WeakValueDictionary

import numpy as np
import torch
from numpy.typing import NDArray

from fedlite import config as records
from fedlite.apps.device import Device, Fixed, Ram
from fedlite.apps.job import Workshop, make_job, node, open_ledger, unsigned, unverified
from fedlite.apps.many import CohortApp
from fedlite.apps.report import recorder
from fedlite.apps.server import run
from fedlite.crypto.files import locked
from fedlite.data.base import Dataset
from fedlite.data.partition import split
from fedlite.data.spec import open_data
from fedlite.downlink import Version
from fedlite.flower import Context
from fedlite.rounds import Model
from fedlite.uplink import Clear
from fedlite.virtual.grid import VirtualGrid
from simulations.config import Config

Indices = NDArray[np.int64]


def simulate(config: Config, stop: Event) -> tuple[Model, Path]:
    """Run to the end (or until `stop`), leave a results folder, return (last model, that folder)."""
    torch.set_num_threads(1)
    whole = open_data(config.dataset, data_dir=config.data_dir)
    parts = split(whole, config.partition, config.clients, config.seed)
    folder = config.run_dir or Path("runs") / datetime.now().strftime(
        f"%Y%m%d-%H%M%S-{config.strategy.split(':')[0]}"
    )
    endless = replace(config, deadline_seconds=math.inf)  # a loaded machine must not change a result
    workshop = Workshop(endless)
    app = CohortApp(Devices(whole, parts).of, threads=config.workers, kernel=config.engine != "torch")
    with (
        locked(folder, wait=False),
        open_ledger(
            workshop, folder / "ledger.db", folder, clients=config.clients, partition=config.partition
        ) as ledger,
        VirtualGrid(app, len(parts), workers=config.workers) as grid,
        recorder(folder, records.record(config), config.rounds, _title(config, parts), ledger) as watcher,
    ):
        model = run(grid, make_job(workshop, Clear(), unsigned, node), ledger, watcher, stop)
        workshop.write(folder, model)
    return model, folder


def _title(config: Config, parts: Sequence[Indices]) -> str:
    sizes = sorted(len(part) for part in parts)
    return f"{len(parts)} clients of {config.dataset} ({sizes[0]} to {sizes[-1]} samples), {config.strategy}"


class Devices:
    """Virtual devices, made when they are first drawn. Clients at one version share one copy of it."""

    def __init__(self, whole: Dataset, parts: Sequence[Indices]) -> None:
        self._whole, self._parts = whole, parts
        self._memories: dict[int, Ram] = {}
        self._versions: WeakValueDictionary[str, Version] = WeakValueDictionary()

    def of(self, context: Context) -> Device:
        """The device a context stands for: its partition-id is its place in the division."""
        index = int(context.node_config["partition-id"])
        share = self._whole.take(self._parts[index])
        memory = self._memories.setdefault(index, Ram())
        return Device(
            str(context.node_id),
            Fixed(share.x, share.y),
            memory,
            Clear(),
            unverified,
            versions=self._versions,
        )
