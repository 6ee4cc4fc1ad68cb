"""The weighted mean of updates as a stream: memory does not grow with the cohort."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fedlite.errors import QuorumError, UpdateError
from fedlite.tensors import check_finite, check_like
from fedlite.types import Array, Params, Result


@dataclass(frozen=True)
class Total:
    """A running weighted sum. In float64: the order of arrival can change the mean's last bit, no more."""

    sums: dict[str, NDArray[np.float64]]
    weight: int = 0
    count: int = 0
    metric_sums: tuple[tuple[str, float, int], ...] = ()  # name, Σ weight · value, Σ weight


def start(like: Params) -> Total:
    """An empty total for updates of these names and shapes."""
    return Total({name: np.zeros(value.shape, np.float64) for name, value in like.items()})


def add(total: Total, result: Result) -> Total:
    """Add one client's update, weighted by its example count. `total` is used up: keep only what is returned.

    Raises UpdateError, with `total` untouched, if the update does not fit, is not finite, or has no weight.
    """
    if result.num_examples <= 0:
        raise UpdateError(f"example count is {result.num_examples}, at least 1 wanted")
    like = {name: _as_float32(value) for name, value in total.sums.items()}
    check_like(result.update, like)
    check_finite(result.update)
    for name, value in result.update.items():
        total.sums[name] += result.num_examples * value.astype(np.float64)
    return replace(
        total,
        weight=total.weight + result.num_examples,
        count=total.count + 1,
        metric_sums=_add_metrics(total, result),
    )


def finish(total: Total) -> dict[str, Array]:
    """Weighted mean of the updates: Σ n_k · Δ_k / Σ n_k. (McMahan 2017, Alg. 1) QuorumError when empty."""
    if total.weight == 0:
        raise QuorumError("no update to aggregate")
    return {name: (value / total.weight).astype(np.float32) for name, value in total.sums.items()}


def mean_metrics(total: Total) -> dict[str, float]:
    """Means of the clients' metrics, weighted by example count, each over the clients that reported it."""
    return {name: value / weight for name, value, weight in total.metric_sums}


def _as_float32(value: NDArray[np.float64]) -> Array:
    """A float32 array of this shape that takes no memory: only its names and shape are compared."""
    return np.broadcast_to(np.float32(0), value.shape)


def _add_metrics(total: Total, result: Result) -> tuple[tuple[str, float, int], ...]:
    sums = {name: (value, weight) for name, value, weight in total.metric_sums}
    for name, value in result.metrics.items():
        old, weight = sums.get(name, (0.0, 0))
        sums[name] = (old + result.num_examples * value, weight + result.num_examples)
    return tuple((name, value, weight) for name, (value, weight) in sums.items())
