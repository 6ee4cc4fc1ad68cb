"""How many clients may be in training at once without the machine running out of memory."""

import os
from pathlib import Path

from fedlite.errors import SettingsError
from fedlite.modules import module_of
from fedlite.virtual.engines.base import Work
from fedlite.virtual.samples import Samples, Taken
from fedlite.virtual.workload import RUNTIME_BYTES, training_memory

MIB = 2**20
FORKED_BYTES = 32 * MIB  # a forked worker of its own, beside a model: 10 to 29 MiB measured
RESERVE = 0.1  # of what is free stays so
_OPTIMIZER_COPIES = {"adam": 2, "sgd": 1}


def bytes_each(work: Work, samples: Samples | Taken) -> int:
    """Of one client with such samples in training, beside the process it is in: an estimate."""
    x, y = samples[:2]
    batch = min(work.settings.batch_size or len(y), len(y))
    module = module_of(work.model, work.settings.bits)
    copies = _OPTIMIZER_COPIES[work.settings.optimizer]
    whole = training_memory(module, x.shape[1:], max(1, batch), optimizer_copies=copies)
    return whole - RUNTIME_BYTES


def affordable(workers: int, each: int, max_bytes: int | None = None) -> int:
    """How many of `workers` ≥ 1 that take `each` bytes fit in what is free, and in `max_bytes` if that is less.

    SettingsError when not even one does.
    """
    free = int(free_bytes() * (1 - RESERVE))
    room = free if max_bytes is None else min(free, max_bytes)
    if room < each:
        raise SettingsError(
            f"training one client takes about {-(-each // MIB)} MiB of memory, {room / MIB:.3g} MiB may be used",
            remedy="take a smaller batch or model, or allow more memory with --memory-gb",
        )
    return max(1, min(workers, room // max(1, each)))


def free_bytes() -> int:
    """Memory that can be taken without swapping: the machine's, and this control group's if it has less."""
    return min(_machine(Path("/proc/meminfo")), _group(Path("/sys/fs/cgroup")))


def _machine(meminfo: Path) -> int:
    try:
        lines = meminfo.read_text().splitlines()
        [found] = [line for line in lines if line.startswith("MemAvailable:")]
        return int(found.split()[1]) * 1024
    except (OSError, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _group(folder: Path) -> int:
    """Of control group version 2; a very large number without a limit."""
    try:
        limit, used = ((folder / name).read_text().strip() for name in ("memory.max", "memory.current"))
        return max(0, int(limit) - int(used))
    except (OSError, ValueError):
        return 2**62
