import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlite.compress.cluster import Shared, centroid_gradient, cluster, nearest, share
from fedlite.errors import SettingsError, UpdateError


def test_clusters_of_a_hand_calculation() -> None:
    # Centroids begin at 0, 5, 10; {0, 1, 2} and {10} are nearest to the ends, {4, 5} to the middle: means 1, 4.5, 10.
    book, indices = cluster(np.array([0, 10, 1, 2, 4, 5], np.float32), 3)
    assert book.tolist() == [1, 4.5, 10]
    assert indices.tolist() == [0, 2, 0, 0, 1, 1]


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.integers(1, 300), st.integers(0, 2**32))
def test_a_local_optimum_of_k_means(count: int, size: int, seed: int) -> None:
    """Each value is with its nearest centroid, each centroid is the mean of its values: Lloyd's two conditions."""
    values = np.random.default_rng(seed).standard_normal(size).astype(np.float32)
    book, indices = cluster(values, count)
    assert len(book) <= count
    assert (np.diff(book) > 0).all()
    assert set(indices) == set(range(len(book)))
    distance = np.abs(values[:, None].astype(np.float64) - book)
    assert np.allclose(distance[np.arange(size), indices], distance.min(1), atol=1e-6)
    means = [values[indices == k].mean(dtype=np.float64) for k in range(len(book))]
    assert np.allclose(book, means, atol=1e-5)


def test_few_distinct_values_are_kept_as_they_are() -> None:
    values = np.array([0.5, -3, 0.5, 7, -3], np.float32)
    book, indices = cluster(values, 4)
    assert (book[indices] == values).all()


def test_the_largest_weights_keep_a_centroid_of_their_own() -> None:
    """What linear initialization is for: one large weight among many small ones. (Han et al. 2016, §3.2)"""
    values = np.append(np.random.default_rng(0).standard_normal(5000), 9).astype(np.float32)
    book, indices = cluster(values, 8)
    assert book[indices[-1]] == 9


def test_nothing_live_has_no_centroid() -> None:
    book, indices = cluster(np.zeros(0, np.float32), 8)
    assert len(book) == len(indices) == 0


def test_nearest_takes_the_lower_of_two_as_near() -> None:
    assert nearest(np.array([0.4, 0.5, 0.6]), np.array([0, 1], np.float32)).tolist() == [0, 0, 1]


def test_centroid_gradient_is_the_sum_of_its_weights() -> None:
    mask = np.array([[True, False], [True, True]])
    shared = Shared(mask, np.array([1, 2], np.float32), np.array([0, 1, 0], np.uint8))
    assert shared.dense().tolist() == [[1, 0], [2, 1]]
    gradient = np.array([[0.5, 99], [0.25, 2]], np.float32)
    assert centroid_gradient(gradient, shared).tolist() == [2.5, 0.25]


def test_centroid_gradient_is_autograds() -> None:
    import torch

    random = np.random.default_rng(3)
    shared = Shared(
        random.random((4, 6)) < 0.5, random.standard_normal(3).astype(np.float32), np.zeros(0, np.uint8)
    )
    live = int(shared.mask.sum())
    shared = Shared(shared.mask, shared.codebook, random.integers(0, 3, live).astype(np.uint8))
    book = torch.tensor(shared.codebook, requires_grad=True)
    weight = torch.zeros(4, 6).masked_scatter(
        torch.tensor(shared.mask), book[torch.tensor(shared.indices.astype(np.int64))]
    )
    weight.retain_grad()
    (weight * torch.tensor(random.standard_normal((4, 6)), dtype=torch.float32)).sum().backward()
    assert weight.grad is not None
    assert book.grad is not None
    assert np.allclose(centroid_gradient(weight.grad.numpy(), shared), book.grad.numpy(), atol=1e-6)


def test_refusals() -> None:
    values = np.ones(3, np.float32)
    for count in (0, 257):
        with pytest.raises(SettingsError, match=f"{count} clusters; 1 to 256"):
            cluster(values, count)
    with pytest.raises(SettingsError, match="'b'"):
        share({"a": values, "b": values}, {}, {"a": 2})
    with pytest.raises(UpdateError, match="'a' holds NaN"):
        share({"a": values * np.float32("nan")}, {}, {"a": 2})
