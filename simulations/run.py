"""One simulation: the data set divided, a crew of virtual clients, the server app over it."""

import logging
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from fedlite import config as records
from fedlite import train
from fedlite.apps.device import open_teacher
from fedlite.apps.gathering import Watcher
from fedlite.apps.job import Workshop, make_job, node, open_ledger, unsigned
from fedlite.apps.model import Evaluate
from fedlite.apps.report import recorder
from fedlite.apps.server import run_with
from fedlite.apps.stacked import Stacked
from fedlite.apps.timed import Timed
from fedlite.crypto.files import locked
from fedlite.errors import SettingsError
from fedlite.rounds import Model
from fedlite.train_settings import TrainSettings
from fedlite.types import Params
from fedlite.uplink import Clear
from fedlite.virtual import kernel
from fedlite.virtual.engines.base import Engine, Share, Work
from fedlite.virtual.engines.choose import choose
from fedlite.virtual.kernel.heap import keep_freed_memory
from fedlite.virtual.lessons import taught
from fedlite.virtual.schedule import open_schedule
from simulations.config import Config
from simulations.population import Population, populate

CONNECT_SECONDS = 5.0


def simulate(config: Config, stop: Event) -> tuple[Model, Path]:
    """Run to the end (or until `stop`), leave a results folder, return (last model, that folder)."""
    torch.set_num_threads(1)
    keep_freed_memory()
    population, test = populate(config)
    _check(config, len(population))
    folder = config.run_dir or Path("runs") / datetime.now().strftime(
        f"%Y%m%d-%H%M%S-{config.strategy.split(':')[0]}"
    )
    workshop = Workshop(config, test, _evaluate_of(config))
    timed = _timed(config, workshop, population)
    division = {"clients": config.clients, "partition": config.partition}
    if timed is not None:
        division |= {"devices": config.devices, "availability": config.availability}
    with (
        locked(folder, wait=False),
        open_ledger(workshop, folder / "ledger.db", folder, **division) as ledger,
        recorder(
            folder, records.record(config), config.rounds, _title(config, population), ledger
        ) as watcher,
        Stacked(
            settings=config,
            ledger=ledger,
            clients=len(population),
            engine_of=_engine_of(config, population),
            watcher=watcher,
            stop=stop,
            folder=folder,
            memory=round(config.memory_gb * 1e9),
            threads=config.cores,
            timed=timed,
        ) as crew,
        _shown(watcher),
    ):
        if timed is not None:
            timed.resume(ledger.latest())
        try:
            model = run_with(crew, make_job(workshop, Clear(), unsigned, node), ledger, watcher, stop)
            workshop.write(folder, model)
        finally:
            crew.keep()
    return model, folder


def _evaluate_of(config: Config) -> Evaluate | None:
    """Tests by the compiled kernel, on all cores, where cohorts may be trained by it; None leaves them to torch."""
    if config.engine not in ("auto", "compiled") or kernel.available() is not None:
        return None

    def evaluate(
        model: nn.Module, params: Params, x: NDArray[Any], y: NDArray[Any], *, bits: int
    ) -> Mapping[str, float]:
        if kernel.supports_evaluation(model, bits) is None:
            return kernel.evaluate(model, params, x, y, bits=bits, threads=config.cores)
        return train.evaluate(model, params, x, y, bits=bits)

    return evaluate


@contextmanager
def _shown(watcher: Watcher) -> Iterator[None]:
    """What engines log, such as how fast each was in a measurement, is told to the watcher."""
    handler = logging.Handler()
    handler.emit = lambda record: watcher.status(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("fedlite.simulation")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


def _check(config: Config, clients: int) -> None:
    """SettingsError, before anything is written, for a round that these clients cannot fill or a cluster that is away.

    Ray itself would look for one for minutes.
    """
    for name, size in (("cohort", config.cohort), ("quorum", config.quorum)):
        if size > clients:
            raise SettingsError(
                f"--{name} is {size}, but there are {clients} clients",
                remedy=f"lower --{name}, or divide the data among more --clients",
            )
    if config.address and config.engine != "ray":
        raise SettingsError(
            f"--address {config.address} is a Ray cluster's, but --engine is {config.engine}",
            remedy="add --engine ray, or leave --address out",
        )
    host, _, port = config.address.rpartition(":")
    if not host or "/" in config.address:  # auto and ray://… are Ray's to find
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, ValueError, OverflowError) as error:
        raise SettingsError(
            f"no Ray cluster answers at --address {config.address}: {error}",
            remedy="start one there with `ray start --head`, or leave --address out to have one here",
        ) from error


def _timed(config: Config, workshop: Workshop, population: Population) -> Timed | None:
    """The clock of the fleet that --devices describes. SettingsError if it cannot train the model."""
    schedule = open_schedule(
        config.devices,
        config.availability,
        model=workshop.spec,
        input_shape=population.share(0)[0].shape[1:],
        settings=TrainSettings(**config.train_settings()),
        seed=config.seed,
    )

    def sizes(clients: Sequence[int]) -> list[int]:
        return [int(size) for size in population.sizes_of(clients)]

    return Timed(schedule, config, sizes) if schedule is not None else None


def _engine_of(config: Config, population: Population) -> Callable[[Work, Sequence[int]], Engine]:
    return partial(
        choose,
        _taught(config, population.share),
        workers=config.cores,
        wanted=config.engine,
        max_bytes=round(config.memory_gb * 1e9),
        make_share=partial(_share_of, config),
        address=config.address or None,
    )


def _share_of(config: Config) -> Share:
    """Where clients' samples come from, opened again: on another machine, in another process."""
    return _taught(config, populate(config)[0].share)


def _taught(config: Config, share: Share) -> Share:
    """With what the teacher says of each sample, where there is a teacher."""
    teacher = open_teacher(config.teacher)
    return share if teacher is None else taught(share, teacher.logits)


def _title(config: Config, population: Population) -> str:
    return f"{len(population):,} clients of {config.dataset}, {config.strategy}"
