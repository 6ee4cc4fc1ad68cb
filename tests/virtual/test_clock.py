"""Rounds by hand on the virtual clock, and what must hold in every round."""

import math
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlite.errors import SettingsError
from fedlite.virtual.clock import Event, Kind, Spent, Timeline, Visit, run_round, spent, visits
from fedlite.virtual.devices import Cost, cost, profile
from fedlite.virtual.traces import trace


def made(down: float, compute: float, up: float, *, fits: bool = True) -> Cost:
    """1 W down, 10 W at work, 2 W up; 1000 bytes down, 100 up."""
    return Cost(down, compute, up, down, 10 * compute, 2 * up, 1000, 100, fits)


FAST, MIDDLE, SLOW = made(1, 2, 1), made(1, 4, 1), made(2, 10, 2)  # 4, 6 and 14 s; 23, 43 and 106 J
THREE = [Visit(7, SLOW), Visit(3, FAST), Visit(5, MIDDLE)]


def test_three_clients_by_hand() -> None:
    outcome = run_round(THREE, wanted=3, began=100.0)
    assert outcome.counted == (3, 5, 7)
    assert (outcome.seconds, outcome.ended) == (14.0, 114.0)
    assert outcome.spent == Spent(3000, 300, 23.0 + 43.0 + 106.0)
    assert outcome.late == outcome.failed == outcome.left == outcome.absent == outcome.unfit == ()


def test_more_are_asked_than_wanted_and_the_first_are_taken() -> None:
    """The third is in vain, and costs what it costs."""
    outcome = run_round(THREE, wanted=2)
    assert (outcome.counted, outcome.late, outcome.seconds) == ((3, 5), (7,), 6.0)
    assert outcome.spent == Spent(3000, 300, 172.0)


def test_the_deadline_ends_a_round() -> None:
    outcome = run_round(THREE, wanted=3, deadline=5.0)
    assert (outcome.counted, outcome.late, outcome.seconds) == ((3,), (5, 7), 5.0)
    assert run_round(THREE, wanted=3, deadline=6.0).counted == (3, 5)  # at that very moment


def test_failures_absences_and_misfits_by_hand() -> None:
    """Client 1 fails halfway through 4 s: 1 s down, 1 of its 2 s of work: 1 + 10 J. Client 2 leaves after 0.5 s
    with half the model: 0.5 J. 3 is not there. 4 does not fit. 5 arrives at 6 s, the last event."""
    outcome = run_round(
        [
            Visit(1, FAST, fails_at=0.5),
            Visit(2, FAST, stays=0.5),
            Visit(3, FAST, stays=0.0),
            Visit(4, made(1, 1, 1, fits=False)),
            Visit(5, MIDDLE),
        ],
        wanted=5,
        deadline=60.0,
    )
    assert outcome.counted == (5,)
    assert (outcome.failed, outcome.left, outcome.absent, outcome.unfit) == ((1,), (2,), (3,), (4,))
    assert outcome.seconds == 6.0  # nobody is left to wait for
    assert outcome.spent == Spent(1000 + 500 + 1000, 100, 11.0 + 0.5 + 43.0)


def test_a_straggler_computes_longer_and_burns_more() -> None:
    """1 + 3 · 2 + 1 s, and 1 + 3 · 20 + 2 J."""
    outcome = run_round([Visit(1, FAST, slowdown=3.0)], wanted=1)
    assert (outcome.seconds, outcome.spent.joules) == (8.0, 63.0)


def test_one_that_leaves_when_it_is_done_has_done_it() -> None:
    assert run_round([Visit(1, FAST, stays=4.0)], wanted=1).counted == (1,)
    assert run_round([Visit(1, FAST, stays=3.99)], wanted=1).left == (1,)


def test_what_is_spent_up_to_a_moment() -> None:
    assert spent(FAST, 0.0) == Spent()
    assert spent(FAST, 0.25) == Spent(250, 0, 0.25)
    assert spent(FAST, 3.5) == Spent(1000, 50, 1 + 20 + 1)
    assert spent(FAST, 99.0) == Spent(1000, 100, 23.0)
    assert spent(made(1, 2, 0), 0.5) == Spent(500, 0, 0.5)
    assert spent(made(0, 0, 0), 0.0) == Spent(1000, 100, 0.0)


def test_nobody_there() -> None:
    outcome = run_round([Visit(1, FAST, stays=0.0)], wanted=1)
    assert (outcome.counted, outcome.seconds, outcome.spent) == ((), 0.0, Spent())


def test_ties_go_to_the_lower_client() -> None:
    assert run_round([Visit(9, FAST), Visit(2, FAST)], wanted=1).counted == (2,)


VISITS = st.builds(
    Visit,
    client=st.integers(0, 10**6),
    cost=st.builds(
        made,
        st.floats(0.01, 50),
        st.floats(0.01, 500),
        st.floats(0.01, 50),
        fits=st.sampled_from([True] * 9 + [False]),
    ),
    slowdown=st.floats(1, 10),
    fails_at=st.one_of(st.just(math.inf), st.floats(0, 1, exclude_max=True)),
    stays=st.one_of(st.just(math.inf), st.floats(0, 500)),
)


@settings(max_examples=150, deadline=None)
@given(
    asked=st.lists(VISITS, max_size=15, unique_by=lambda visit: visit.client),
    wanted=st.integers(1, 15),
    deadline=st.one_of(st.just(math.inf), st.floats(0.1, 500)),
    shuffle=st.randoms(use_true_random=False),
)
def test_every_round(asked: list[Visit], wanted: int, deadline: float, shuffle: random.Random) -> None:
    outcome = run_round(asked, wanted=wanted, deadline=deadline)
    groups = (outcome.counted, outcome.late, outcome.failed, outcome.left, outcome.absent, outcome.unfit)
    assert sorted(sum(groups, ())) == sorted(visit.client for visit in asked)
    there = [visit for visit in asked if visit.cost.fits and visit.stays > 0]
    arrivals = sorted(visit.end(0.0) for visit in there if visit.end(0.0).kind == Kind.ARRIVED)
    in_time = [event for event in arrivals if event.time <= deadline]
    assert outcome.counted == tuple(event.client for event in in_time[:wanted])
    assert 0 <= outcome.seconds <= deadline
    if len(in_time) >= wanted:
        assert outcome.seconds == in_time[wanted - 1].time
    assert outcome.spent.bytes_up >= 100 * len(outcome.counted)
    assert outcome.spent.bytes_down <= 1000 * len(there)
    mixed = asked[:]
    shuffle.shuffle(mixed)
    assert run_round(mixed, wanted=wanted, deadline=deadline) == outcome


def test_a_trace_comes_in_the_way() -> None:
    clients, costs = list(range(500)), [FAST] * 500
    rough = trace("churn:40/20+dropout:0.2+straggler:0.3,10", 5)
    met = visits(rough, clients, costs, round_num=4, now=1000.0)
    assert [visit.client for visit in met] == clients
    for visit in met[:40]:
        assert (visit.stays > 0) == rough.available(visit.client, 1000.0)
        assert math.isfinite(visit.fails_at) == rough.fails(visit.client, 4)
        assert visit.slowdown == rough.slowdown(visit.client, 4)
    outcome = run_round(met, wanted=500, deadline=30.0, began=1000.0)
    assert min(len(outcome.absent), len(outcome.failed), len(outcome.left), len(outcome.counted)) > 5
    assert visits(rough, clients, costs, 4, 1000.0) == met


def test_a_real_fleet_of_two() -> None:
    """A Pi 4 does the work in 1/2.5 of a Pi 3's time, so it is the first to arrive."""
    work: dict[str, Any] = {
        "flops": 1e11,
        "payload_up_bytes": 10**5,
        "payload_down_bytes": 10**6,
        "memory_bytes": 2**29,
    }
    outcome = run_round(
        [Visit(0, cost(profile("pi3"), **work)), Visit(1, cost(profile("pi4"), **work))], wanted=1
    )
    assert outcome.counted == (1,)
    assert outcome.late == (0,)


def test_events_come_in_order_of_time_and_can_be_added_on_the_way() -> None:
    timeline = Timeline()
    for event in (Event(5.0, Kind.ARRIVED, 1), Event(2.0, Kind.FAILED, 2), Event(2.0, Kind.ARRIVED, 3)):
        timeline.add(event)
    assert timeline.next() == Event(2.0, Kind.ARRIVED, 3)
    assert timeline.next() == Event(2.0, Kind.FAILED, 2)
    timeline.add(Event(3.0, Kind.ARRIVED, 4))
    assert timeline.next(before=2.5) is None
    assert timeline.now == 2.0
    assert timeline.next() == Event(3.0, Kind.ARRIVED, 4)
    assert [event.client for event in timeline.rest()] == [1]
    with pytest.raises(SettingsError, match="cannot be added"):
        timeline.add(Event(2.9, Kind.ARRIVED, 5))
    with pytest.raises(SettingsError, match="cannot be added"):
        timeline.add(Event(math.nan, Kind.ARRIVED, 5))


@pytest.mark.parametrize(
    ("clients", "wanted", "deadline", "says"),
    [
        ([1, 1], 1, 5.0, "asked once"),
        ([1], 0, 5.0, "0 updates wanted"),
        ([1], 1, 0.0, "more than 0 s"),
        ([1], 1, math.nan, "more than 0 s"),
    ],
)
def test_rounds_that_cannot_be_are_refused(
    clients: list[int], wanted: int, deadline: float, says: str
) -> None:
    with pytest.raises(SettingsError, match=says):
        run_round([Visit(client, FAST) for client in clients], wanted=wanted, deadline=deadline)


def test_only_who_would_have_arrived_is_late() -> None:
    """After the first arrival at 1 s: one arrives at 3 s, one would break off at 2 s, one leaves after 2.5 s."""
    asked = [
        Visit(0, made(0.0, 1.0, 0.0)),
        Visit(1, made(0.0, 3.0, 0.0)),
        Visit(2, made(0.0, 4.0, 0.0), fails_at=0.5),
        Visit(3, made(0.0, 4.0, 0.0), stays=2.5),
    ]
    outcome = run_round(asked, wanted=1)
    assert (outcome.counted, outcome.late, outcome.failed, outcome.left) == ((0,), (1,), (2,), (3,))
