"""How long one call takes here: the median and the 95th percentile of many, after a warm-up."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

WARM_UP = 5  # calls: allocations, caches and the processor's clock settle
LEAST, MOST = 30, 2000  # calls timed: the 95th percentile of 30 is the second slowest
SECONDS = 2.0  # timed, at least, unless MOST calls take less


@dataclass(frozen=True)
class Latency:
    """Seconds of one call, over `repeats` calls."""

    p50_seconds: float
    p95_seconds: float
    repeats: int


def measure(
    call: Callable[[], object],
    *,
    seconds: float = SECONDS,
    least: int = LEAST,
    clock: Callable[[], float] = time.perf_counter,
) -> Latency:
    """Time `call`: at least `least` calls and `seconds`, at most MOST calls."""
    for _ in range(WARM_UP):
        call()
    times: list[float] = []
    began = clock()
    while len(times) < least or (clock() - began < seconds and len(times) < MOST):
        start = clock()
        call()
        times.append(clock() - start)
    return Latency(quantile(times, 0.5), quantile(times, 0.95), len(times))


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of `values` do not exceed: the nearest rank, one that was measured."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
