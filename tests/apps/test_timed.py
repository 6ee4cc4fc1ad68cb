"""A round as it is planned on the virtual clock, by hand."""

import pytest

from fedlite.apps.timed import Plan, Timed
from fedlite.errors import QuorumError
from fedlite.ledger.store import Snapshot
from fedlite.virtual.devices import MIB, Fleet, Profile
from fedlite.virtual.schedule import Schedule
from fedlite.virtual.traces import Trace
from fedlite.virtual.workload import Workload
from simulations.config import Config

PI = Profile("pi", 1e8, 450 * MIB, 8e6, 8e6, 0.0, 1.0, 4.0, 1.0, None, "round numbers")
WORK = Workload(flops_per_sample=10**6, memory_first=100 * MIB, memory_more=MIB, batch_size=0)


def timed(trace: Trace | None = None, **more: float | int | str) -> Timed:
    """A client has 100 times as many samples as its number, at most 1000 times: 1 s of training each hundred."""
    settings = Config(devices="pi4", **{"cohort": 2, "quorum": 1, "deadline_seconds": 60.0} | more)  # type: ignore[arg-type]
    schedule = Schedule(Fleet((PI,), (1.0,), 0), trace or Trace(0), WORK)
    return Timed(schedule, settings, lambda clients: [100 * client for client in clients])


def plan(made: Timed, round_num: int, asked: list[int], down: int, limit: int) -> Plan:
    """Everybody downloads as much."""
    return made.plan(round_num, 5, asked, lambda clients: [down] * len(clients), limit)


def test_the_cohort_is_trained_and_who_comes_after_it_is_late() -> None:
    """Down 1 s, up 1 s, training 3, 1 and 2 s. Client 3 is done after 5 s, a second after the other two."""
    made = timed()
    found = plan(made, 1, [3, 1, 2, 4], 10**6, 10**6)
    assert found.train == [3, 1, 2]
    assert found.late == {3}
    assert found.dropped == {
        3: "was still at work when the round ended",
        4: "needs 499 MiB for training, a pi has 450 MiB",
    }
    assert found.row["fleet"]["now"] == made.schedule.now == 4.0
    assert found.row["fleet"]["unfit"] == 1
    assert "attempts" not in found.row["fleet"]


def test_a_round_that_misses_its_quorum_is_begun_again_a_minute_later() -> None:
    """Half of all fail: of five clients four are to be done, which takes some attempts; all of them cost."""
    made = timed(Trace(1, dropout=0.5), cohort=5, quorum=4)
    found = plan(made, 1, [1, 0, 2, 3], 0, 0)
    fleet = found.row["fleet"]
    attempts = fleet["attempts"]
    assert 2 <= attempts <= 40
    assert len(found.train) >= 4
    assert fleet["waited"] == 60.0 * (attempts - 1)
    assert fleet["now"] == pytest.approx(fleet["waited"] + fleet["seconds"])
    assert fleet["kinds"]["pi"]["asked"] == 4 + 5 * (attempts - 1)
    assert fleet["kinds"]["pi"]["counted"] + fleet["failed"] + fleet["unfit"] == fleet["kinds"]["pi"]["asked"]
    with pytest.raises(
        QuorumError, match=r"round 1 was begun 60 times; at last 4 of 5 .* 1 times: needs 499 MiB"
    ):
        plan(timed(cohort=5, quorum=5), 1, [4], 0, 0)


def test_updates_weigh_what_they_weighed_in_the_round_before() -> None:
    """8 MB take 8 s; half of it 4."""
    made = timed()
    assert plan(made, 1, [1], 0, 8 * 10**6).row["fleet"]["seconds"] == 1 + 8
    made.learn({"a": {"bytes_up": 3 * 10**6}, "b": {"bytes_up": 5 * 10**6}, "lost": {"bytes_up": 0}})
    assert plan(made, 2, [1], 0, 8 * 10**6).row["fleet"]["seconds"] == 1 + 4
    made.learn({"lost": {"bytes_up": 0}})
    assert plan(made, 3, [1], 0, 8 * 10**6).row["fleet"]["seconds"] == 1 + 4
    assert plan(made, 4, [1], 0, 2 * 10**6).row["fleet"]["seconds"] == 1 + 2  # pruned since


def test_updates_weigh_what_their_budget_lets_them() -> None:
    """A budget of 2 MB: 2 s, as long as it is not known to be less; what others weighed says nothing."""
    made = timed(uplink_budget="2MB", uplink_codec="small")
    assert plan(made, 1, [1], 0, 8 * 10**6).row["fleet"]["seconds"] == 1 + 2
    made.learn({"a": {"bytes_up": 10**6, "uplink_budget": 2 * 10**6}, "b": {"bytes_up": 7 * 10**6}})
    assert plan(made, 2, [1], 0, 8 * 10**6).row["fleet"]["seconds"] == 1 + 1


def test_a_link_bears_what_it_carries_in_the_time_there_is() -> None:
    """8 Mbit/s: a million bytes a second, of which 95 % less 400 are a report's."""
    assert timed().budget(3) == 0
    assert timed(round_time="2s").budget(3) == 1_900_000 - 400
    assert timed(round_time="2s", uplink_budget="1MB").budget(3) == 10**6


def test_the_deadline_is_virtual() -> None:
    found = plan(timed(deadline_seconds=4.5), 1, [2, 3], 10**6, 10**6)
    assert (found.train, set(found.late), found.row["fleet"]["seconds"]) == ([2, 3], {3}, 4.5)


def test_more_than_the_cohort_are_asked_where_that_is_wanted() -> None:
    assert len(timed(over_selection=1.5).choose(100, 1)) == 3
    assert len(timed(cohort=0, over_selection=1.5).choose(10, 1)) == 10


@pytest.mark.parametrize("last", [None, Snapshot(1, {}, {"round": 1})])
def test_a_run_without_rounds_on_a_clock_begins_at_zero(last: Snapshot | None) -> None:
    made = timed()
    made.resume(last)
    assert made.schedule.now == 0.0


def test_a_resumed_run_has_the_time_and_the_sizes_of_updates_of_all_rounds() -> None:
    """Budgets of rounds before the last, too: 2 MB for who has none, 1 MB where 4 are allowed."""
    first, made = timed(), timed(uplink_budget="4MB", uplink_codec="small")
    first.learn({"a": {"bytes_up": 10**6, "uplink_budget": 4 * 10**6}})
    known = first.learn({"b": {"bytes_up": 2 * 10**6}})
    last = Snapshot(3, {}, {"fleet": {"now": 123.5, "update_bytes": known}, "clients": {}})
    first.resume(last)
    made.resume(last)
    assert plan(first, 4, [1], 0, 8 * 10**6).row["fleet"]["now"] == 123.5 + 1 + 2
    assert plan(made, 4, [1], 0, 8 * 10**6).row["fleet"]["now"] == 123.5 + 1 + 1
