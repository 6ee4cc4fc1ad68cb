"""Traces have the statistics their names promise, and ask-order changes nothing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlite.errors import SettingsError
from fedlite.virtual.traces import DAY, HOUR, trace

MANY = np.arange(40_000)  # a share of one half in these has a deviation of 0.0025


def test_always() -> None:
    always = trace("always", 0)
    assert always.available_many(MANY, 1e9).all()
    assert np.isinf(always.stays_many(MANY, 5.0)).all()
    assert not any(always.fails(client, 1) for client in range(100))
    assert {always.slowdown(client, 1) for client in range(100)} == {1.0}


@settings(max_examples=25, deadline=None)
@given(
    spec=st.sampled_from(["always", "diurnal", "diurnal:24", "churn:3600/600", "churn:10/1000"]),
    client=st.integers(0, 10**6),
    time=st.floats(0, 60 * DAY),
    round_num=st.integers(0, 10_000),
    seed=st.integers(0, 2**63 - 1),
)
def test_one_client_is_told_what_many_are(
    spec: str, client: int, time: float, round_num: int, seed: int
) -> None:
    made = trace(f"{spec}+dropout:0.5+straggler:0.5,3", seed)
    company = np.array([client + 5, client, 17])
    again = trace(f"{spec}+dropout:0.5+straggler:0.5,3", seed)
    assert made.available(client, time) == again.available_many(company, time)[1]
    assert made.fails(client, round_num) == np.isfinite(again.fails_at_many(company, round_num)[1])
    assert made.slowdown(client, round_num) == again.slowdown_many(company, round_num)[1]
    assert made.available(client, time) == bool(again.stays_many(company, time)[1] > 0)


def test_a_million_clients_need_nothing_but_the_answer() -> None:
    made = trace("churn:3600/600+dropout", 0)
    assert made.available_many(np.arange(1_000_000), 1e6).shape == (1_000_000,)


@pytest.mark.parametrize("time", [0.0, 12_345.6, 90 * DAY])
def test_churn_is_in_equilibrium_at_any_time(time: float) -> None:
    """MTBF / (MTBF + MTTR) = 3/4, deviation 0.0022."""
    assert trace("churn:3000/1000", 4).available_many(MANY, time).mean() == pytest.approx(0.75, abs=0.011)


@pytest.mark.parametrize("gap", [10.0, 300.0, 2000.0])
def test_churn_forgets_as_a_two_state_chain_does(gap: float) -> None:
    """P(there at t + s | there at t) = A + (1 − A) exp(−(1/MTBF + 1/MTTR) s), A = 3/4."""
    made = trace("churn:3000/1000", 5)
    there = MANY[made.available_many(MANY, 7777.0)]
    expected = 0.75 + 0.25 * np.exp(-(1 / 3000 + 1 / 1000) * gap)
    assert made.available_many(there, 7777.0 + gap).mean() == pytest.approx(expected, abs=0.013)


def test_time_to_failure_and_to_repair_are_exponential() -> None:
    """What is left of an exponential time has its mean and deviation: MTBF. 15,000 of them: within 4 %."""
    made = trace("churn:3000/1000", 6)
    stays = made.stays_many(np.arange(20_000), 555.0)
    stays = stays[stays > 0]
    assert stays.mean() == pytest.approx(3000, rel=0.04)
    assert stays.std() == pytest.approx(3000, rel=0.06)
    assert (stays > 3000).mean() == pytest.approx(np.exp(-1), abs=0.02)


@pytest.mark.parametrize("spec", ["churn:2000/900", "diurnal"])
def test_a_client_stays_for_as_long_as_it_is_said_to(spec: str) -> None:
    made = trace(spec, 8)
    for client in np.flatnonzero(made.available_many(np.arange(60), 50_000.0)):
        stays = float(made.stays_many(np.array([client]), 50_000.0)[0])
        within = 50_000.0 + np.linspace(0, stays * 0.999_999, 200)
        assert made.available_many(np.full(200, client), within).all()
        assert not made.available(int(client), 50_000.0 + stays + 1e-3)


def test_who_stays_for_longer_than_asked_about_stays() -> None:
    """Within 100 s: the same clients leave, at the same times; of those that are away, all are."""
    made = trace("churn:200/90", 8)
    week, short = made.stays_many(MANY, 50_000.0), made.stays_many(MANY, 50_000.0, 100.0)
    np.testing.assert_array_equal(short, np.where(week < 100, week, np.inf))


def test_diurnal_is_four_times_as_many_by_night() -> None:
    """Bonawitz et al. 2019, §9: a factor of 4 within 24 hours; and every day is like the other."""
    made = trace("diurnal", 9)
    counts = np.array([made.available_many(MANY, hour * HOUR).mean() for hour in range(48)])
    assert counts.max() / counts.min() == pytest.approx(4, abs=0.4)
    assert 11 <= counts[:24].argmax() <= 15  # time 0 is noon: between 23:00 and 03:00
    np.testing.assert_allclose(counts[:24], counts[24:], atol=0.015)


def test_time_zones_around_the_world_even_the_day_out() -> None:
    made = trace("diurnal:24", 9)
    counts = np.array([made.available_many(MANY, hour * HOUR).mean() for hour in range(24)])
    assert counts.max() / counts.min() < 1.1


def test_phones_charge_for_hours_at_a_time() -> None:
    """At 02:00 most have begun some 3 h ago and go on for about 5 h: far from a draw of its own each hour."""
    made = trace("diurnal:0", 3)
    stays = made.stays_many(MANY[:5000], 14 * HOUR)
    assert 3 * HOUR < np.median(stays[stays > 0]) < 7 * HOUR


def test_dropout_is_what_was_asked_and_8_percent_unasked() -> None:
    """0.08 of 40,000: deviation 0.0014. The point of failure is spread evenly over the work."""
    at = trace("dropout", 2).fails_at_many(MANY, 12)
    assert np.isfinite(at).mean() == pytest.approx(0.08, abs=0.007)
    assert at[np.isfinite(at)].mean() == pytest.approx(0.5, abs=0.03)
    assert np.isfinite(trace("dropout:0.5", 2).fails_at_many(MANY, 12)).mean() == pytest.approx(
        0.5, abs=0.013
    )
    assert not np.isfinite(trace("dropout:0", 2).fails_at_many(MANY, 12)).any()


def test_rounds_and_clients_fail_independently() -> None:
    made = trace("dropout:0.5+straggler:0.5,2", 2)
    one, two = (np.isfinite(made.fails_at_many(MANY, round_num)) for round_num in (1, 2))
    slow = made.slowdown_many(MANY, 1) > 1
    assert (one & two).mean() == pytest.approx(0.25, abs=0.011)
    assert (one & slow).mean() == pytest.approx(0.25, abs=0.011)


def test_stragglers() -> None:
    slow = trace("straggler:0.1,4", 1).slowdown_many(MANY, 3)
    assert set(np.unique(slow)) == {1.0, 4.0}
    assert (slow == 4).mean() == pytest.approx(0.1, abs=0.008)


def test_another_seed_is_another_trace() -> None:
    left, right = (trace("diurnal", seed).available_many(MANY, DAY) for seed in (1, 2))
    assert (left != right).any()


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("sometimes", "no trace 'sometimes'; there are always, diurnal"),
        ("", "no trace ''"),
        ("always:1", "no number wanted"),
        ("churn", "a number from 1 to inf, a number from 1 to inf wanted"),
        ("churn:10", "'churn:10' is not right"),
        ("churn:10/0", "'churn:10/0' is not right"),
        ("churn:inf/5", "is not right"),
        ("diurnal:25", "a number from 0 to 24"),
        ("dropout:1.5", "a number from 0 to 1"),
        ("dropout:x", "a number from 0 to 1"),
        ("dropout:nan", "a number from 0 to 1"),
        ("straggler:0.1", "is not right"),
        ("straggler:0.1,0.5", "is not right"),
        ("diurnal+churn:9/9", "twice"),
        ("dropout+dropout:0.1", "repeats 'dropout'"),
    ],
)
def test_what_is_no_trace_is_refused(spec: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        trace(spec, 0)
