"""The streaming mean against a calculation by hand, and what it refuses."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedlite import aggregate
from fedlite.errors import QuorumError, UpdateError
from fedlite.types import Array, Params, Result, Update


def result(values: list[float], weight: int, **metrics: float) -> Result:
    return Result("c", {"w": np.array(values, np.float32)}, weight, metrics)


def weighted_mean(results: list[Result], like: Params) -> Update:
    total = aggregate.start(like)
    for each in results:
        total = aggregate.add(total, each)
    return aggregate.finish(total)


LIKE = {"w": np.zeros(2, np.float32)}


def test_weighted_by_examples() -> None:
    # (1·1 + 3·5) / 4 = 4 and (1·2 + 3·(−2)) / 4 = −1
    mean = weighted_mean([result([1, 2], 1), result([5, -2], 3)], LIKE)
    assert mean["w"].tolist() == [4.0, -1.0]
    assert mean["w"].dtype == np.float32


def test_metrics_are_weighted_over_those_who_report_them() -> None:
    total = aggregate.start(LIKE)
    for each in (result([0, 0], 1, loss=1.0), result([0, 0], 3, loss=5.0, online=0.5)):
        total = aggregate.add(total, each)
    assert aggregate.mean_metrics(total) == {"loss": 4.0, "online": 0.5}


@given(st.permutations(range(6)))
def test_the_order_of_arrival_does_not_show(order: list[int]) -> None:
    rng = np.random.default_rng(0)
    results = [result(list(rng.standard_normal(2)), index + 1) for index in range(6)]
    mean = weighted_mean([results[index] for index in order], LIKE)
    assert mean["w"].tobytes() == weighted_mean(results, LIKE)["w"].tobytes()


def test_an_empty_cohort_has_no_mean() -> None:
    with pytest.raises(QuorumError):
        aggregate.finish(aggregate.start(LIKE))


@pytest.mark.parametrize(
    "bad",
    [
        result([1, 2, 3], 1),
        result([1, np.nan], 1),
        result([1, np.inf], 1),
        result([1, 2], 0),
        result([1, 2], -9),
        Result("c", {"v": np.zeros(2, np.float32)}, 1),
        Result("c", {"w": np.zeros(2, np.float64)}, 1),  # type: ignore[dict-item]
        Result("c", {}, 1),
    ],
)
def test_a_bad_result_is_refused_and_leaves_no_trace(bad: Result) -> None:
    total = aggregate.add(aggregate.start(LIKE), result([2, 4], 2))
    with pytest.raises(UpdateError):
        aggregate.add(total, bad)
    assert aggregate.finish(total)["w"].tolist() == [2.0, 4.0]


def random_update(seed: int) -> dict[str, Array]:
    """Tensors of many blocks, of one value, of none, of no dimension, and one that is not contiguous."""
    rng = np.random.default_rng(seed)
    found = {"a": (300, 257), "b": (1,), "c": (0, 3), "d": (), "e": (40, 30)}
    tensors = {name: np.asarray(rng.standard_normal(shape), np.float32) for name, shape in found.items()}
    return tensors | {"e": tensors["e"].T}


def test_the_sum_is_that_of_plain_float64() -> None:
    updates = [random_update(seed) for seed in range(3)]
    weights = [7, 2**31 + 1, 200]
    total = aggregate.start(updates[0])
    for each, weight in zip(updates, weights, strict=True):
        total = aggregate.add(total, Result("c", each, weight))
    mean = aggregate.finish(total)
    for name in updates[0]:
        want = np.zeros(updates[0][name].shape)
        for each, weight in zip(updates, weights, strict=True):
            want = want + weight * each[name].astype(np.float64)
        assert mean[name].tobytes() == (want / sum(weights)).astype(np.float32).tobytes()
        assert mean[name].shape == updates[0][name].shape


@pytest.mark.parametrize("value", [np.nan, -np.inf, 1.001e9, -1e30])
def test_nothing_is_added_before_all_is_checked(value: float) -> None:
    good = random_update(1)
    total = aggregate.add(aggregate.start(good), Result("c", good, 3))
    before = {name: sums.copy() for name, sums in total.sums.items()}
    bad = random_update(2)
    bad["e"][-1, -1] = value
    with pytest.raises(UpdateError):
        aggregate.add(total, Result("c", bad, 5))
    assert all(np.array_equal(sums, before[name]) for name, sums in total.sums.items())


def test_the_largest_that_is_believed_is_added() -> None:
    total = aggregate.add(aggregate.start(LIKE), result([1e9, -1e9], 1))
    assert aggregate.finish(total)["w"].tolist() == [1e9, -1e9]


def test_memory_is_that_of_four_models_however_many_clients() -> None:
    """The total in float64 is two, the update that is added one, the mean that is made one."""
    like = {"w": np.zeros((1000, 1000), np.float32)}
    update = {"w": np.ones((1000, 1000), np.float32)}
    tracemalloc.start()
    try:
        total = aggregate.start(like)
        for _ in range(5):
            total = aggregate.add(total, Result("c", update, 2))
        assert tracemalloc.get_traced_memory()[1] < 2.2 * like["w"].nbytes
        aggregate.finish(total)
        assert tracemalloc.get_traced_memory()[1] < 3.2 * like["w"].nbytes
    finally:
        tracemalloc.stop()
