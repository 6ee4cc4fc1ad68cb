"""Every scheme is exact, deterministic, and has the statistics its name promises."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedlite.data.base import Dataset
from fedlite.data.partition import LEAST, split
from fedlite.errors import DataError

Parts = list[NDArray[np.int64]]


def labels(num_samples: int, num_classes: int = 10, seed: int = 0) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, num_classes, num_samples)


def keyed(keys: NDArray[np.int64]) -> Dataset:
    return Dataset(np.zeros((len(keys), 1), np.float32), keys % 3, 3, "keyed", keys)


def assert_exact(parts: Parts, num_samples: int) -> None:
    together = np.concatenate(parts)
    assert together.dtype == np.int64
    np.testing.assert_array_equal(np.sort(together), np.arange(num_samples))
    assert all(len(part) and (np.diff(part) > 0).all() for part in parts)


def class_shares(y: NDArray[np.int64], part: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.bincount(y[part], minlength=10) / len(part)


@settings(max_examples=60, deadline=None)
@given(
    scheme=st.sampled_from(["iid", "dirichlet:0.01", "dirichlet:0.5", "dirichlet:100", "shards", "shards:3"]),
    num_clients=st.integers(1, 40),
    extra=st.integers(0, 200),
    num_classes=st.integers(1, 12),
    seed=st.integers(0, 2**63 - 1),
)
def test_every_sample_belongs_to_one_client(
    scheme: str, num_clients: int, extra: int, num_classes: int, seed: int
) -> None:
    y = labels(3 * num_clients + extra, num_classes, seed % 97)
    parts = split(y, scheme, num_clients, seed)
    assert len(parts) == num_clients
    assert_exact(parts, len(y))
    for again, part in zip(split(y, scheme, num_clients, seed), parts, strict=True):
        np.testing.assert_array_equal(again, part)


@pytest.mark.parametrize("scheme", ["iid", "dirichlet:1", "shards:2"])
def test_another_seed_gives_another_partition(scheme: str) -> None:
    y = labels(500)
    left, right = split(y, scheme, 10, 1), split(y, scheme, 10, 2)
    assert any(not np.array_equal(a, b) for a, b in zip(left, right, strict=True))


def test_iid_parts_are_equal_in_size_and_alike_in_classes() -> None:
    y = labels(20_003)
    parts = split(y, "iid", 10, 3)
    assert {len(part) for part in parts} == {2000, 2001}
    everyone = np.bincount(y) / len(y)
    for part in parts:  # a share of 0.1 in 2,000 draws has a standard deviation of 0.0067: five of them
        assert np.abs(class_shares(y, part) - everyone).max() < 0.034


def test_alpha_decides_how_far_classes_are_concentrated() -> None:
    y = labels(20_000)
    largest = {
        alpha: np.mean([class_shares(y, part).max() for part in split(y, f"dirichlet:{alpha}", 20, 5)])
        for alpha in ("0.05", "1", "10000")
    }
    assert largest["0.05"] > 0.6  # mostly one class
    assert largest["0.05"] > largest["1"] > largest["10000"]
    assert largest["10000"] < 0.14  # 0.1 each, but for rounding


def test_dirichlet_shares_have_the_variance_of_their_law() -> None:
    """A share of Dir(a, …, a) over k clients has variance (k − 1) / (k² (k·a + 1))."""
    y = np.repeat(np.arange(400), 1000)
    sizes = [np.bincount(y[part], minlength=400) for part in split(y, "dirichlet:0.5", 10, 1)]
    shares = np.array(sizes) / 1000
    expected = 9 / (100 * (10 * 0.5 + 1))
    assert np.var(shares) == pytest.approx(expected, rel=0.06)


@pytest.mark.parametrize("alpha", ["0.0001", "0.1", "1000000"])
def test_dirichlet_leaves_nobody_without_samples(alpha: str) -> None:
    y = labels(60_000)
    parts = split(y, f"dirichlet:{alpha}", 1000, 7)
    assert_exact(parts, len(y))
    assert min(map(len, parts)) >= LEAST


def test_dirichlet_serves_two_samples_each_where_there_are_no_more() -> None:
    parts = split(labels(40), "dirichlet:0.01", 20, 0)
    assert [len(part) for part in parts] == [2] * 20


@pytest.mark.parametrize("per_client", [1, 2, 5])
def test_shards_give_few_classes(per_client: int) -> None:
    """Clients × S shards of a sorted list cross at most (classes − 1) borders, each adding one class."""
    y = labels(6_000)
    parts = split(y, f"shards:{per_client}", 50, 2)
    held = [len(np.unique(y[part])) for part in parts]
    assert sum(held) <= 50 * per_client + 9
    assert max(held) <= 2 * per_client  # no class is smaller than a shard here
    assert {len(part) for part in parts} == {120}


def test_two_shards_each_is_the_default() -> None:
    y = labels(1_000)
    for a, b in zip(split(y, "shards", 20, 4), split(y, "shards:2", 20, 4), strict=True):
        np.testing.assert_array_equal(a, b)


def test_shards_of_a_sorted_list_by_hand() -> None:
    """Six samples, three clients, one shard each: the shards are {0, 1}, {2, 3}, {4, 5} of the sorted list."""
    y = np.array([2, 0, 1, 0, 2, 1])  # sorted by label: 1, 3 | 2, 5 | 0, 4
    parts = {tuple(part.tolist()) for part in split(y, "shards:1", 3, 9)}
    assert parts == {(1, 3), (2, 5), (0, 4)}


@pytest.mark.parametrize("num_clients", [0, None, 4])
def test_natural_parts_hold_one_key_each(num_clients: int | None) -> None:
    keys = np.array([30, 10, 20, 10, 40, 30, 10])
    parts = split(keyed(keys), "natural", num_clients, 0)
    assert [part.tolist() for part in parts] == [[1, 3, 6], [2], [0, 5], [4]]


def test_fewer_natural_clients_are_dealt_whole_keys_by_size() -> None:
    """Key sizes 10: 3, 30: 2, 20: 1, 40: 1, dealt to 0, 1, 0, 1."""
    keys = np.array([30, 10, 20, 10, 40, 30, 10])
    parts = split(keyed(keys), "natural", 2, 0)
    assert [sorted(set(keys[part].tolist())) for part in parts] == [[10, 20], [30, 40]]


@settings(max_examples=30, deadline=None)
@given(
    keys=st.lists(st.integers(-5, 30), min_size=1, max_size=200),
    num_clients=st.integers(1, 8),
)
def test_natural_never_divides_a_key(keys: list[int], num_clients: int) -> None:
    data = keyed(np.array(keys, dtype=np.int64))
    num_clients = min(num_clients, len(set(keys)))
    parts = split(data, "natural", num_clients, 0)
    assert_exact(parts, len(keys))
    owners = [{keys[place] for place in part} for part in parts]
    assert sum(map(len, owners)) == len(set(keys))


@pytest.mark.parametrize(
    ("scheme", "num_clients", "says"),
    [
        ("iid", 11, "10 samples cannot serve 11 clients"),
        ("iid", 0, "0 clients asked"),
        ("iid", -1, "-1 clients asked"),
        ("iid", None, "None clients asked"),
        ("iid:3", 2, "there are iid, dirichlet:ALPHA, dirichlet:ALPHA:EACH, shards:S, natural"),
        ("dirichlet:0.5", 6, "at least 12 are needed"),
        ("dirichlet", 2, "positive number"),
        ("dirichlet:0", 2, "positive number"),
        ("dirichlet:-1", 2, "positive number"),
        ("dirichlet:nan", 2, "positive number"),
        ("dirichlet:inf", 2, "positive number"),
        ("dirichlet:0.5:6", 2, "at least 12 are needed"),
        ("dirichlet:0.5:0", 2, "positive whole number"),
        ("shards:3", 4, "at least 12 are needed"),
        ("shards:1.5", 2, "positive whole number"),
        ("shards:0", 2, "positive whole number"),
        ("natural", 2, "no natural keys"),
        ("by-colour", 2, "there is no partition scheme 'by-colour'"),
        ("", 2, "there is no partition scheme"),
    ],
)
def test_what_cannot_be_divided_is_refused(scheme: str, num_clients: int | None, says: str) -> None:
    with pytest.raises(DataError, match=says):
        split(labels(10), scheme, num_clients, 0)


@pytest.mark.parametrize("num_clients", [3, -1])
def test_natural_clients_are_no_more_than_keys(num_clients: int) -> None:
    with pytest.raises(DataError, match="2 natural keys"):
        split(keyed(np.array([1, 2, 1])), "natural", num_clients, 0)


def test_dirichlet_clients_of_equal_size_differ_in_their_classes() -> None:
    """E[Σ share²] under Dir(α, …, α) with k classes is (α + 1)/(kα + 1): 0.325 at α = 0.3 (sampling adds 1/200)."""
    y = labels(60_000)
    parts = split(y, "dirichlet:0.3:200", 100, 5)
    assert [len(part) for part in parts] == [200] * 100
    together = np.concatenate(parts)
    assert len(np.unique(together)) == len(together)
    concentration = np.mean([(class_shares(y, part) ** 2).sum() for part in parts])
    assert 0.28 < concentration < 0.38
    again = split(y, "dirichlet:0.3:200", 100, 5)
    assert all(np.array_equal(one, two) for one, two in zip(parts, again, strict=True))
    assert sorted(np.concatenate(split(labels(40), "dirichlet:0.01:10", 4, 1))) == list(range(40)), (
        "all used up"
    )
