"""Weights that share a few values: k-means codebooks over the live weights, and how a shared value learns.

A tensor becomes a mask, one small index per live weight and a codebook. (Han et al. 2016, "Deep Compression", §3)
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlite.errors import SettingsError
from fedlite.tensors import check_finite
from fedlite.types import Array, Masks, Params

MOST = 256  # centroids of one tensor
ROUNDS = 300  # of Lloyd's algorithm; weights settle in tens

Indices = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Shared:
    """One tensor as stored: `mask` has its shape; live weights in C order are codebook[indices]."""

    mask: NDArray[np.bool_]
    codebook: Array
    indices: Indices

    def dense(self) -> Array:
        """The tensor, float32; what is pruned is exactly 0."""
        values = np.zeros(self.mask.shape, np.float32)
        values[self.mask] = self.codebook[self.indices]
        return values

    def with_codebook(self, codebook: Array) -> "Shared":
        """The same weights share other values."""
        return replace(self, codebook=np.ascontiguousarray(codebook, np.float32).copy())


def cluster(values: Array, count: int) -> tuple[Array, Indices]:
    """(codebook, indices) of at most `count` centroids, 1 to 256, ascending, none of them unused.

    Lloyd's algorithm from centroids evenly spread between the smallest and the largest value, which keep the few
    large weights apart (linear initialization, §3.2); centroids that no value is nearest to go. Deterministic. Fewer
    distinct values than `count` are kept as they are. SettingsError for a count out of range.
    """
    if not 1 <= count <= MOST:
        raise SettingsError(f"{count} clusters; 1 to {MOST} are possible")
    flat = np.asarray(values, np.float64).ravel()
    distinct = np.unique(flat)
    means = distinct if len(distinct) <= count else _lloyd(np.sort(flat), count)
    book: Array = np.unique(means.astype(np.float32))
    indices = nearest(flat, book)
    used, renamed = np.unique(indices, return_inverse=True)
    return book[used], renamed.astype(np.uint8)


def nearest(values: NDArray[Any], codebook: Array) -> NDArray[np.int64]:
    """The index of the centroid nearest to each value; of two as near, the lower. `codebook` ascends."""
    book = np.asarray(codebook, np.float64)
    return np.searchsorted((book[1:] + book[:-1]) / 2, np.asarray(values, np.float64))


def share(params: Params, masks: Masks, clusters: Mapping[str, int]) -> dict[str, Shared]:
    """Each tensor with its live weights clustered into as many centroids as `clusters` says for its name.

    UpdateError for NaN or infinity, SettingsError for a name without a number of clusters.
    """
    check_finite(params, "weights")
    if missing := set(params) - set(clusters):
        raise SettingsError(f"no number of clusters is given for {sorted(missing)[0]!r}")
    shared = {}
    for name, value in params.items():
        mask = masks.get(name, np.ones(value.shape, np.bool_))
        shared[name] = Shared(mask, *cluster(value[mask], clusters[name]))
    return shared


def centroid_gradient(gradient: Array, shared: Shared) -> Array:
    """The gradient of each centroid: the sum of its weights' gradients. (Han et al. 2016, equation 3)"""
    live = gradient[shared.mask]
    return np.bincount(shared.indices, live, len(shared.codebook)).astype(np.float32)


def _lloyd(ordered: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Centroids of sorted values: each round costs one search per centroid, as clusters are intervals."""
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    book = np.linspace(ordered[0], ordered[-1], count)
    for _ in range(ROUNDS):
        cuts = np.searchsorted(ordered, (book[1:] + book[:-1]) / 2, "right")
        edges = np.concatenate([[0], cuts, [len(ordered)]])
        sizes = np.diff(edges)
        means = np.diff(sums[edges])[sizes > 0] / sizes[sizes > 0]
        if len(means) == len(book) and np.array_equal(means, book):
            break
        book = means
    return book
