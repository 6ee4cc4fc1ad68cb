"""Which of two engines that give the same bytes is faster for some work here: measured once, then remembered."""

import math
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from fedlite import remembered
from fedlite.errors import SettingsError
from fedlite.virtual.engines.base import Engine, Work
from fedlite.virtual.kernel.build import cache_folder

SECONDS = 1.0  # an engine whose first block took longer gets no second
CLIENTS = 2  # of each worker, in a block


@dataclass(frozen=True)
class Rates:
    """Clients per second."""

    pool: float
    loop: float


def measured(
    pool: Engine, workers: int, loop: Engine, work: Work, clients: Sequence[int], size: int
) -> Rates:
    """By some of `clients`, each engine for about two seconds or two clients of each worker; recorded
    for clients of about `size` samples.

    The pool comes first: its workers are forked before torch computes here.
    """
    pooled = _rate(pool, work, clients, CLIENTS * workers)
    rates = Rates(pooled, _rate(loop, work, clients, CLIENTS))
    if rates.pool and rates.loop:
        remembered.write(_place(work, workers, size), asdict(rates))
    return rates


def recorded(work: Work, workers: int, size: int) -> Rates | None:
    """Of this model, settings, samples to a power of two, machine and versions.

    None when there is none, or what is there is damaged.
    """
    found = remembered.read(_place(work, workers, size), ("pool", "loop"))
    return Rates(**found) if found and math.isfinite(max(found.values())) else None


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


def _place(work: Work, workers: int, size: int) -> Path | None:
    """Where the rates of this work on this machine are recorded; None where nothing can be."""
    machine = [platform.machine(), remembered.processor(), os.cpu_count(), workers]
    samples = size.bit_length()
    versions = [version("torch"), version("numpy"), version("fedlite")]
    try:
        folder = cache_folder()
    except (OSError, SettingsError):
        return None
    return remembered.place(folder, "rates", [work.model, asdict(work.settings), samples, machine, versions])
