"""Observers find the ranges that their definitions give, however the values come."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlite.compress.observers import Extremes, Moving, Observer, Percentile, named, observe
from fedlite.errors import DataError, SettingsError
from fedlite.types import Array

KINDS: list[Observer] = [Extremes(), Moving(), Percentile(), Percentile(90.0, capacity=8)]


def arrays(*batches: list[float]) -> list[Array]:
    return [np.float32(batch) for batch in batches]


def test_extremes_by_hand() -> None:
    assert observe(Extremes(), arrays([1, 5], [-2], [0, 3])) == (-2, 5)


def test_a_moving_average_by_hand() -> None:
    """[0, 8]; then 3/4 of it and 1/4 of [−4, 4]: [−1, 7]; then with [3, 7]: [0, 7]."""
    assert observe(Moving(0.75), arrays([0, 8], [-4, 4], [3, 7])) == (0, 7)
    assert observe(Moving(0.0), arrays([0, 8], [1, 2])) == (1, 2)


def test_percentiles_by_hand() -> None:
    """Of 0 … 100 the 95th percentile is 95, the 5th 5; of 0, 1 the 75th is .75."""
    values = np.random.default_rng(0).permutation(101).astype(np.float32)
    assert observe(Percentile(95.0), np.split(values, [10, 50])) == pytest.approx((5, 95))
    assert observe(Percentile(75.0), arrays([0, 1])) == (0.25, 0.75)
    assert observe(Percentile(100.0), arrays([3, -1], [9])) == (-1, 9)


def test_a_percentile_that_leaves_nothing_is_the_extremes() -> None:
    values = np.zeros(1000, np.float32)
    values[7] = 2
    assert observe(Percentile(99.0), [values]) == (0, 2)


@settings(deadline=None)
@given(
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=60), st.integers(1, 59), st.integers(0, 1)
)
def test_how_values_are_cut_into_batches_does_not_matter(values: list[float], cut: int, kind: int) -> None:
    observer = [Extremes(), Percentile(90.0)][kind]
    whole = np.float32(values)
    parts = [part for part in (whole[:cut], whole[cut:]) if part.size]
    assert observe(observer, parts) == observe(observer, [whole])


def test_a_percentile_of_many_values_holds_few_and_is_close() -> None:
    """999,000 of a million are in [0, 1], the rest at 100: the 99th percentile is near .99, not near 100.

    Of 4096 drawn the share at or below x has a standard deviation of at most sqrt(.01 · .99 / 4096) = .0016.
    """
    rng = np.random.default_rng(0)
    values = rng.random(1_000_000, np.float32)
    values[::1000] = 100
    observer = Percentile(99.0, capacity=4096)
    state = observer.start()
    for batch in np.split(values, 10):
        state = observer.add(state, batch)
        assert len(state.kept) <= 4096
    assert (state.low, state.high) == (values.min(), 100)
    low, high = observer.finish(state)
    assert observe(observer, np.split(values, 10)) == (low, high)
    assert low == pytest.approx(0.01, abs=0.006)
    assert high == pytest.approx(0.99, abs=0.008)


@pytest.mark.parametrize("observer", KINDS, ids=str)
def test_states_are_values(observer: Observer) -> None:
    """What was held before a batch is as it was after."""
    first = observer.add(observer.start(), np.float32([1, 2, 3]))
    before = observer.finish(first)
    observer.add(first, np.full(20, 9, np.float32))
    assert observer.finish(first) == before


@pytest.mark.parametrize("observer", KINDS, ids=str)
def test_what_is_not_a_range_is_refused(observer: Observer) -> None:
    with pytest.raises(DataError, match="no range"):
        observer.finish(observer.start())
    for odd in ([np.nan], [1, np.inf], [-np.inf]):
        with pytest.raises(DataError, match="NaN or infinity"):
            observer.add(observer.start(), np.float32(odd))
    with pytest.raises(DataError, match="empty"):
        observer.add(observer.start(), np.zeros(0, np.float32))


def test_observers_by_name() -> None:
    assert named("minmax") == Extremes()
    assert named("average") == Moving(0.9)
    assert named("average:0.5") == Moving(0.5)
    assert named("percentile:99.5") == Percentile(99.5)
    for odd in (
        "",
        "max",
        "minmax:1",
        "percentile:",
        "percentile:x",
        "percentile:50",
        "average:1",
        "average:nan",
    ):
        with pytest.raises(SettingsError, match="observer"):
            named(odd)
