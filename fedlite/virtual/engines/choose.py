"""Which engine trains this work on this machine: the compiled one where it can, else the faster of two that agree."""

import logging
from collections.abc import Callable, Sequence
from functools import partial

from fedlite.errors import FedliteError, SettingsError
from fedlite.virtual.engines import calibrate, compiled, pool
from fedlite.virtual.engines.base import Engine, Share, Work, samples_of
from fedlite.virtual.engines.compiled import Compiled
from fedlite.virtual.engines.loop import Loop
from fedlite.virtual.engines.memory import FORKED_BYTES, affordable, bytes_each
from fedlite.virtual.engines.names import Name
from fedlite.virtual.engines.pool import Pool
from fedlite.virtual.engines.ray_cluster import RayCluster
from fedlite.virtual.samples import Taken
from fedlite.virtual.workload import RUNTIME_BYTES

_log = logging.getLogger("fedlite.simulation")


def choose(
    share: Share,
    work: Work,
    clients: Sequence[int],
    *,
    workers: int,
    wanted: Name = "auto",
    max_bytes: int | None = None,
    make_share: Callable[[], Share] | None = None,
    address: str | None = None,
) -> Engine:
    """The engine for `work`, on up to `workers` ≥ 1 cores; fewer where memory (or `max_bytes`) is short.

    "auto" takes the compiled one where that knows the work: it was the fastest in every measurement
    (a client of pooled_cnn, 60 images in batches of 20, is 2.0 ms of a core there and 15 ms with torch).
    Otherwise it trains some of `clients` by the loop and by the pool, takes the faster, and remembers it for this
    model, settings, machine and versions. These two give the same bytes, so a choice between them changes no
    result; what would is taken only by name. "ray" needs `make_share`: see RayCluster. SettingsError where
    `wanted` cannot be had, or not even one client fits into memory.
    """
    if workers < 1:
        raise SettingsError(f"workers is {workers}; at least 1 is wanted")
    why, samples = compiled.unable(work), _first_with_samples(share, clients)
    alone = bytes_each(work, samples) if samples is not None else 0
    fit = partial(affordable, max_bytes=max_bytes)
    match wanted:
        case "compiled" if why:
            raise SettingsError(
                f"the compiled engine cannot do this work: {why}", remedy="take another engine"
            )
        case "compiled":
            return Compiled(share, fit(workers, alone))
        case "torch":
            fit(1, alone)
            return Loop(share)
        case "pool":
            return Pool(share, fit(workers, alone + FORKED_BYTES))
        case "ray":
            if make_share is None:
                raise SettingsError(
                    "this population opens in this process alone", remedy="take another engine"
                )
            here = workers if address else fit(workers, alone + RUNTIME_BYTES)
            return RayCluster(make_share, here, address)
    if why is None:
        return Compiled(share, fit(workers, alone))
    size = len(samples.y) if samples is not None else 0
    return _faster(share, work, clients, workers, alone, max_bytes, size)


def _first_with_samples(share: Share, clients: Sequence[int]) -> Taken | None:
    """The samples of the first client that has some; None when none has."""
    for client in clients:
        try:
            return samples_of(share, client)
        except FedliteError:  # its engine will say so
            continue
    return None


def _faster(
    share: Share,
    work: Work,
    clients: Sequence[int],
    workers: int,
    alone: int,
    max_bytes: int | None,
    size: int,
) -> Engine:
    """The loop or the pool, as measured now or before with clients of about `size` samples."""
    affordable(1, alone, max_bytes)
    if workers == 1 or pool.unable():
        return Loop(share)
    try:
        workers = affordable(workers, alone + FORKED_BYTES, max_bytes)
    except SettingsError:  # for one client, but not for a worker beside us
        return Loop(share)
    made = Pool(share, workers)
    rates, recorded = calibrate.recorded(work, workers, size), True
    if rates is None:
        rates, recorded = calibrate.measured(made, workers, Loop(share), work, clients, size), False
    taken: Engine = made if rates.pool > rates.loop else Loop(share)
    if taken is not made:
        made.close()
    _log.info(
        "torch: pool of %d processes %.3g clients/s, one process %.3g clients/s (%s): taking %s",
        *(workers, rates.pool, rates.loop, "as recorded" if recorded else "measured now", taken.name),
    )
    return taken
