"""The weighted mean of updates as a stream: memory does not grow with the cohort."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fedlite.errors import QuorumError, UpdateError
from fedlite.tensors import check_finite, check_like
from fedlite.types import Array, Params, Result

_BLOCK = 1 << 16  # values that are widened at a time: 512 KiB, which a cache holds


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
    scratch = np.empty(_BLOCK)
    for name, value in result.update.items():
        _add_scaled(total.sums[name], value, float(result.num_examples), scratch)
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
    mean = {name: np.empty(value.shape, np.float32) for name, value in total.sums.items()}
    for name, value in total.sums.items():
        np.divide(value, total.weight, out=mean[name], dtype=np.float64, casting="same_kind")
    return mean


def mean_metrics(total: Total) -> dict[str, float]:
    """Means of the clients' metrics, weighted by example count, each over the clients that reported it."""
    return {name: value / weight for name, value, weight in total.metric_sums}


def _add_scaled(sums: NDArray[np.float64], value: Array, weight: float, scratch: NDArray[np.float64]) -> None:
    """sums += weight · value, in float64, block by block: no temporary is as large as a tensor."""
    assert sums.flags.c_contiguous  # else the flat form would be a copy
    flat, values = sums.reshape(-1), value.reshape(-1)
    for begin in range(0, values.size, _BLOCK):
        some = values[begin : begin + _BLOCK]
        wide = scratch[: some.size]
        np.copyto(wide, some)
        np.multiply(wide, weight, out=wide)
        np.add(flat[begin : begin + _BLOCK], wide, out=flat[begin : begin + _BLOCK])


def _as_float32(value: NDArray[np.float64]) -> Array:
    """A float32 array of this shape that takes no memory: only its names and shape are compared."""
    return np.broadcast_to(np.float32(0), value.shape)


def _add_metrics(total: Total, result: Result) -> tuple[tuple[str, float, int], ...]:
    sums = {name: (value, weight) for name, value, weight in total.metric_sums}
    for name, value in result.metrics.items():
        old, weight = sums.get(name, (0.0, 0))
        sums[name] = (old + result.num_examples * value, weight + result.num_examples)
    return tuple((name, value, weight) for name, (value, weight) in sums.items())
