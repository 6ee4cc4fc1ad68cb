"""Which of two engines that give the same bytes is faster for some work here: measured once, then remembered."""

import hashlib
import json
import logging
import math
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from fedlite.errors import SettingsError
from fedlite.virtual.engines.base import Engine, Work
from fedlite.virtual.kernel.build import cache_folder

SECONDS = 1.0  # an engine whose first block took longer gets no second
CLIENTS = 2  # of each worker, in a block

_log = logging.getLogger("fedlite.simulation")


@dataclass(frozen=True)
class Rates:
    """Clients per second."""

    pool: float
    loop: float


def measured(pool: Engine, workers: int, loop: Engine, work: Work, clients: Sequence[int]) -> Rates:
    """By some of `clients`, each engine for about two seconds or two clients of each worker; recorded.

    The pool comes first: its workers are forked before torch computes here.
    """
    pooled = _rate(pool, work, clients, CLIENTS * workers)
    rates = Rates(pooled, _rate(loop, work, clients, CLIENTS))
    if rates.pool and rates.loop:
        _record(_place(work, workers), rates)
    return rates


def recorded(work: Work, workers: int) -> Rates | None:
    """Of this model, settings, machine and versions; None when there is none, or what is there is damaged."""
    place = _place(work, workers)
    try:
        found = json.loads(place.read_bytes()) if place else {}
        rates = Rates(float(found["pool"]), float(found["loop"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None
    good = all(math.isfinite(rate) and rate > 0 for rate in (rates.pool, rates.loop))
    return rates if good else None


def _rate(engine: Engine, work: Work, clients: Sequence[int], count: int) -> float:
    """Clients per second in a second block, or in the first if that was long. 0 when all fail."""
    block = [clients[place % len(clients)] for place in range(count)] if clients else []
    rate = 0.0
    for _ in range(2):
        began = time.perf_counter()
        done = engine.train(work, block, [0] * len(block))
        seconds = time.perf_counter() - began
        rate = (len(block) - len(done.failed)) / seconds
        if seconds > SECONDS:
            break
    return rate


def _place(work: Work, workers: int) -> Path | None:
    """Where the rates of this work on this machine are recorded; None where nothing can be."""
    machine = [platform.machine(), _processor(), os.cpu_count(), workers]
    versions = [version("torch"), version("numpy"), version("fedlite")]
    key = json.dumps([work.model, asdict(work.settings), machine, versions], sort_keys=True)
    try:
        return cache_folder() / f"rates-{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
    except (OSError, SettingsError):
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith("model name")), platform.processor())


def _record(place: Path | None, rates: Rates) -> None:
    if place is None:
        return
    try:
        unfinished = place.with_suffix(f".{os.getpid()}.tmp")
        unfinished.write_text(json.dumps(asdict(rates)))
        os.replace(unfinished, place)
    except OSError as error:  # they are measured again next time
        _log.debug("rates are not recorded: %s", error)
