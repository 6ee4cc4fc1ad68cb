"""The streaming mean against a calculation by hand, and what it refuses."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedlite import aggregate
from fedlite.errors import QuorumError, UpdateError
from fedlite.types import Params, Result, Update


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
