"""Rounds of small fleets by hand, and draws of large ones by what must hold."""

import json
import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from fedlite.draws import Bits, Reals
from fedlite.errors import QuorumError, SettingsError
from fedlite.rounds import sample
from fedlite.train_settings import TrainSettings
from fedlite.virtual.clock import Outcome, Spent
from fedlite.virtual.devices import MIB, Fleet, Profile
from fedlite.virtual.schedule import STEP, Schedule, fleet_row, open_schedule
from fedlite.virtual.traces import HOUR, Trace, trace
from fedlite.virtual.workload import Workload

LINEAR = json.dumps({"name": "linear", "options": {"input_shape": [1, 28, 28], "num_classes": 10}})
WORK = Workload(flops_per_sample=10**6, memory_first=100 * MIB, memory_more=10 * MIB, batch_size=20)


def device(name: str, rate: float, memory: int) -> Profile:
    """1 MB/s both ways without latency; 1 W idle, 4 W at work, 2 W on air."""
    return Profile(name, rate, memory, 8e6, 8e6, 0.0, 1.0, 4.0, 1.0, None, "round numbers")


FAST, SLOW, SMALL = device("fast", 1e8, 2**30), device("slow", 1e7, 2**30), device("small", 1e7, 250 * MIB)


def made(spec: str = "always", *kinds: Profile, seed: int = 3) -> Schedule:
    kinds = kinds or (FAST,)
    return Schedule(Fleet(kinds, (1 / len(kinds),) * len(kinds), seed), trace(spec, seed), WORK)


def play(
    schedule: Schedule,
    asked: list[int],
    samples: list[int],
    *,
    wanted: int = 1000,
    deadline: float = math.inf,
) -> Outcome:
    """A model of 1 MB, updates of 0.5 MB."""
    down, up = [10**6] * len(asked), [500_000] * len(asked)
    return schedule.play(
        1, asked, samples=samples, bytes_down=down, bytes_up=up, wanted=wanted, deadline=deadline
    )


def test_a_round_by_hand() -> None:
    """1 s down, 1 MFLOP a sample at 100 MFLOPS, 0.5 s up: 2.5, 3.5 and 4.5 s, at 2 W on air and 4 W at work."""
    schedule = made()
    outcome = play(schedule, [4, 2, 9], [100, 200, 300])
    assert outcome.counted == (4, 2, 9)
    assert outcome.spent == Spent(3 * 10**6, 3 * 500_000, 3 * 1.5 * 2 + (1 + 2 + 3) * 4)
    assert schedule.now == outcome.ended == 4.5
    again = play(schedule, [4, 2, 9], [100, 200, 300], wanted=2)
    assert (again.began, again.seconds, again.counted, again.late) == (4.5, 3.5, (4, 2), (9,))
    assert schedule.now == 8.0


def test_the_deadline_and_who_it_leaves_behind() -> None:
    """A slow one takes 10 s for 100 samples."""
    schedule = made("always", FAST, SLOW)
    kind = {schedule.devices.of(client).name: client for client in range(20)}
    outcome = play(schedule, [kind["slow"], kind["fast"]], [100, 100], deadline=5.0)
    assert (outcome.counted, outcome.late, schedule.now) == ((kind["fast"],), (kind["slow"],), 5.0)
    assert fleet_row(outcome, schedule.devices) == {
        "now": 5.0,
        "seconds": 5.0,
        "waited": 0.0,
        "joules": 2 * 1.5 * 2 + (1 + 10) * 4,
        "bytes_down": 2 * 10**6,
        "bytes_up": 10**6,
        "late": 1,
        "failed": 0,
        "left": 0,
        "absent": 0,
        "unfit": 0,
        "kinds": {"fast": {"asked": 1, "counted": 1}, "slow": {"asked": 1, "counted": 0}},
        "slowest": "slow",
    }
    reasons = schedule.reasons(outcome, [kind["slow"], kind["fast"]], [100, 100])
    assert reasons == {kind["slow"]: "was still at work when the round ended"}


def test_who_is_left_behind_is_asked_again_once_it_is_done() -> None:
    """A slow one works for 11.5 s, of which the round waits 5; others are drawn meanwhile, or waited for if too few."""
    schedule = made("always", SLOW)
    outcome = play(schedule, [0, 1], [100, 10], deadline=5.0)
    assert (outcome.counted, outcome.late) == ((1,), (0,))
    assert schedule.busy == {0: 11.5}
    assert all(sorted(schedule.draw(3, 3, 0, number)) == [1, 2] for number in range(20))
    assert schedule.now == 5.0
    again = replace(schedule)
    assert sorted(again.draw(3, 3, 0, 1, quorum=3)) == [0, 1, 2]
    assert again.now == 5.0 + STEP
    play(schedule, [1], [100])
    assert (schedule.now, schedule.busy) == (16.5, {})
    assert sorted(schedule.draw(3, 3, 0, 1)) == [0, 1, 2]


def test_a_batch_that_does_not_fit_a_devices_memory_is_told() -> None:
    """A batch of 16 needs 100 + 15 · 10 MiB, all a small one has; a batch of 17 ten more."""
    schedule = made("always", SMALL)
    outcome = play(schedule, [0, 1], [16, 17])
    assert (outcome.counted, outcome.unfit) == ((0,), (1,))
    reasons = schedule.reasons(outcome, [0, 1], [16, 17])
    assert reasons == {1: "needs 260 MiB for training, a small has 250 MiB"}


def test_every_way_to_be_lost_has_its_reason() -> None:
    schedule = made("churn:40/20+dropout:0.3", FAST, SLOW)
    asked = list(range(200))
    outcome = play(schedule, asked, [100] * 200, deadline=8.0)
    reasons = schedule.reasons(outcome, asked, [100] * 200)
    assert reasons.keys() | set(outcome.counted) == set(asked)
    assert not reasons.keys() & set(outcome.counted)
    assert set(reasons.values()) == {
        "was still at work when the round ended",
        "broke off its training",
        "left while it was at work",
        "was not there",
    }
    row = fleet_row(outcome, schedule.devices)
    lost = sum(row[name] for name in ("late", "failed", "left", "absent", "unfit"))
    assert lost == len(reasons) == 200 - len(outcome.counted)


@pytest.mark.parametrize(("clients", "size"), [(10, 3), (10, 10), (10, 40), (1_000_000, 50), (1, 1)])
def test_a_fleet_that_is_always_there_is_drawn_as_one_without_a_clock(clients: int, size: int) -> None:
    for round_num in (1, 2):
        drawn = made().draw(clients, size, 7, round_num)
        assert drawn == sample(range(clients), size, 7, round_num)
        assert {type(client) for client in drawn} == {int}


@pytest.mark.parametrize("size", [1, 7, 200, 1000])
def test_those_drawn_are_there_and_nobody_twice(size: int) -> None:
    schedule = made("churn:1000/3000")
    drawn = schedule.draw(1000, size, 0, 1)
    there = np.flatnonzero(schedule.trace.available_many(np.arange(1000), 0.0))
    assert len(set(drawn)) == len(drawn) == min(size, len(there))
    assert set(drawn) <= set(there.tolist())
    assert drawn == made("churn:1000/3000").draw(1000, size, 0, 1)
    if size < 1000:
        assert drawn != made("churn:1000/3000").draw(1000, size, 0, 2)


@dataclass
class Quarter:
    """One client in four is there; keeps how many it was asked about."""

    asked: int = 0

    def until(self, stream: Bits, clients: NDArray[np.int64], times: Reals) -> Reals:
        self.asked += len(clients)
        return np.where(clients % 4 == 0, np.inf, 0.0)


def test_everybody_who_is_there_is_drawn_as_often() -> None:
    """Of 20 clients 5 are there and 2 are drawn 3000 times: 1200 times each, deviation √(3000 · 0.4 · 0.6) = 27."""
    schedule = replace(made(), trace=Trace(0, Quarter()))
    counts = np.zeros(20)
    for round_num in range(3000):
        counts[schedule.draw(20, 2, 0, round_num)] += 1
    assert counts.nonzero()[0].tolist() == [0, 4, 8, 12, 16]
    np.testing.assert_allclose(counts[::4], 1200, atol=5 * 27)


def test_a_million_clients_are_not_looked_at() -> None:
    """A hundred of one in four: some four hundred are asked, in chunks of 100, 100, 200, 400, …"""
    presence = Quarter()
    schedule = replace(made(), trace=Trace(0, presence))
    drawn = schedule.draw(1_000_000, 100, 0, 1)
    assert len(set(drawn)) == 100
    assert all(client % 4 == 0 for client in drawn)
    assert 300 <= presence.asked <= 800


def test_the_clock_moves_on_until_enough_are_there() -> None:
    """Ten phones in one time zone, from noon: eight at a time are there in the night only."""
    schedule = made("diurnal:0", seed=1)
    assert len(schedule.draw(10, 10, 0, 1)) < 8
    assert schedule.now == 0.0
    drawn = schedule.draw(10, 10, 0, 1, quorum=8)
    assert len(drawn) >= 8
    assert schedule.now > 8 * HOUR
    before = schedule.trace.available_many(np.arange(10), schedule.now - STEP)
    assert before.sum() < 8
    waited = schedule.now
    outcome = play(schedule, drawn, [100] * len(drawn))
    assert (outcome.began, outcome.waited) == (waited, waited)
    assert play(schedule, drawn, [100] * len(drawn)).waited == 0.0


def test_a_quorum_that_never_comes_ends_the_wait() -> None:
    with pytest.raises(QuorumError, match="50 clients wanted; in 7 virtual days so many of 50 were never"):
        made("churn:100/900").draw(50, 50, 0, 1, quorum=50)
    with pytest.raises(QuorumError, match="5 clients wanted"):
        made().draw(3, 9, 0, 1, quorum=5)


def test_another_attempt_draws_others_and_fails_others() -> None:
    """Half of 200 fail; of those who failed once, about half fail again: 50, deviation 5."""
    schedule = made("dropout:0.5")
    once, again = (schedule.draw(10_000, 200, 0, 1, attempt=attempt) for attempt in (0, 1))
    assert len(set(once) & set(again)) < 30  # 4 expected
    lost = []
    for attempt in (0, 1):
        outcome = schedule.play(
            1,
            once,
            samples=[1] * 200,
            bytes_down=[0] * 200,
            bytes_up=[0] * 200,
            wanted=200,
            deadline=9.0,
            attempt=attempt,
        )
        lost.append(set(outcome.failed))
    assert 25 < len(lost[0] & lost[1]) < 75


def test_a_run_goes_on_where_it_stopped() -> None:
    """Rounds 3 and 4 are the same whether rounds 1 and 2 were played before them, or their time set."""
    whole, resumed = made("churn:60/60+dropout", FAST, SLOW), made("churn:60/60+dropout", FAST, SLOW)
    outcomes = []
    for round_num in range(1, 5):
        if round_num == 3:
            resumed.now = json.loads(json.dumps(whole.now))
        drawn = whole.draw(40, 10, 0, round_num, quorum=5)
        outcomes.append(play(whole, drawn, [100] * len(drawn)))
        if round_num >= 3:
            again = resumed.draw(40, 10, 0, round_num, quorum=5)
            assert play(resumed, again, [100] * len(again)) == outcomes[-1]


def opened(
    devices: str, availability: str = "always", settings: TrainSettings | None = None
) -> Schedule | None:
    return open_schedule(
        devices,
        availability,
        model=LINEAR,
        input_shape=(1, 28, 28),
        settings=settings or TrainSettings(epochs=2, batch_size=16),
        seed=0,
    )


def test_the_model_says_what_the_work_is() -> None:
    """3 · 2 · 7840 operations a sample and epoch; 3136 + 40 bytes and a label of 8 kept of each in the batch."""
    schedule = opened("pi4:0.5,phone:0.5", "churn:3600/600+dropout:0.1")
    assert schedule is not None
    assert schedule.work.flops(60) == 3 * 2 * 7840 * 2 * 60
    assert schedule.work.memory(16) - schedule.work.memory(6) == 10 * (3136 + 40 + 8)
    assert schedule.work.memory(1000) == schedule.work.memory(16)
    momentum = opened("pi4", "", TrainSettings(batch_size=0, momentum=0.9))
    assert momentum is not None
    assert momentum.work.memory(1) - schedule.work.memory(1) == 4 * 7850
    assert momentum.work.memory(1000) - momentum.work.memory(1) == 999 * (3136 + 40 + 8)


def test_no_devices_no_clock() -> None:
    assert opened("") is None
    with pytest.raises(SettingsError, match="'diurnal' needs devices"):
        opened("", "diurnal")


@pytest.mark.parametrize(
    ("devices", "availability", "says"),
    [
        (
            "cray",
            "always",
            "no device profile 'cray'; there are pi_zero_2w, pi3, pi4, pi5, jetson_nano, phone",
        ),
        ("pi4:0.5", "always", "add up to 0.5; 1 wanted"),
        ("pi4", "sometimes", "no trace 'sometimes'; there are always, diurnal"),
        ("pi4", "dropout:2", "a number from 0 to 1 wanted"),
    ],
)
def test_what_cannot_be_is_refused(devices: str, availability: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        opened(devices, availability)


def test_a_model_that_nothing_in_the_fleet_can_train_is_refused() -> None:
    """MobileNetV2 keeps some 78 MB of an image of 224 px, so four times as much of one of 448, beside the process."""
    spec = {
        "name": "mobilenet_v2",
        "options": {"input_shape": [3, 448, 448], "num_classes": 10, "width": 1.0, "stem_stride": 2},
    }
    with pytest.raises(SettingsError, match="of this fleet: pi_zero_2w 384 MiB"):
        open_schedule(
            "pi_zero_2w",
            "always",
            model=json.dumps(spec),
            input_shape=(3, 448, 448),
            settings=TrainSettings(batch_size=1),
            seed=0,
        )
