"""The ledger: rounds in order, each whole, each update once."""

import math
import threading
from pathlib import Path
from typing import Any

import pytest

from fedlite.errors import StateError
from fedlite.ledger.store import Counted, Ledger, Snapshot

IDENTITY = {"model": "lenet", "dataset": "digits", "options": {"width": 1}, "hosts": ("a", "b")}


@pytest.fixture
def ledger(tmp_path: Path) -> Any:
    with Ledger.open(tmp_path / "ledger.db", IDENTITY) as opened:
        yield opened


def commit(
    ledger: Ledger, round_num: int, *counted: Counted, step: bytes | None = None, **metrics: Any
) -> None:
    ledger.commit(round_num, state={"model": b"m%d" % round_num}, step=step, counted=counted, metrics=metrics)


def test_run_id_is_drawn_once_and_differs_between_runs(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "a.db", IDENTITY) as first, Ledger.open(tmp_path / "b.db", IDENTITY) as other:
        assert len(first.run_id) == 16
        assert first.run_id != other.run_id
        run_id = first.run_id
    with Ledger.open(tmp_path / "a.db", IDENTITY) as again:
        assert again.run_id == run_id


def test_another_identity_is_refused_and_each_difference_named(tmp_path: Path) -> None:
    Ledger.open(tmp_path / "ledger.db", IDENTITY).close()
    now = {"model": "mobilenet", "dataset": "digits", "options": {"width": 1}, "hosts": ["a", "b"], "seed": 7}
    with pytest.raises(StateError) as caught:
        Ledger.open(tmp_path / "ledger.db", now)
    assert "model: 'lenet' there, 'mobilenet' now; seed: None there, 7 now" in str(caught.value)
    assert "dataset" not in str(caught.value)
    assert "hosts" not in str(caught.value)


def test_the_latest_commit_is_read_back_whole(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with Ledger.open(path, IDENTITY) as ledger:
        assert ledger.latest() is None
        assert ledger.history() == []
        ledger.commit(0, state={"params": b"\0" * 10, "masks": b"x"}, step=None, counted=[], metrics={})
        ledger.commit(
            1, state={"z": b"", "a": b"2"}, step=b"s", counted=[], metrics={"loss": 0.1, "é": [1, None]}
        )
    with Ledger.open(path, IDENTITY) as ledger:
        assert ledger.latest() == Snapshot(1, {"z": b"", "a": b"2"}, {"loss": 0.1, "é": [1, None]})
        assert list(ledger.latest().state) == ["z", "a"]
        assert ledger.history() == [{}, {"loss": 0.1, "é": [1, None]}]


def test_metrics_may_be_nan(ledger: Ledger) -> None:
    commit(ledger, 0, loss=math.nan)
    assert math.isnan(ledger.history()[0]["loss"])


@pytest.mark.parametrize("wrong", [-1, 1, 3, 0])
def test_rounds_come_one_after_the_other(ledger: Ledger, wrong: int) -> None:
    if wrong <= 0:
        commit(ledger, 0)
        commit(ledger, 1)
        expected = 2
    else:
        expected = 0
    before = ledger.latest()
    with pytest.raises(StateError, match=f"round {wrong} cannot be committed, {expected} is next"):
        commit(ledger, wrong)
    assert ledger.latest() == before


def test_steps_are_whole_chains_or_none(ledger: Ledger) -> None:
    commit(ledger, 0)
    for number in (1, 2, 3, 4, 5):
        commit(ledger, number, step=b"step %d" % number)
    assert ledger.steps(0, 5) == [b"step %d" % n for n in (1, 2, 3, 4, 5)]
    assert ledger.steps(3, 4) == [b"step 4"]
    assert ledger.steps(5, 5) == []
    assert ledger.steps(-1, 2) is None  # the initial model has no step
    assert ledger.steps(4, 6) is None
    ledger.commit(6, state={}, step=b"step 6", counted=[], metrics={}, keep_steps=2)
    assert ledger.steps(4, 6) == [b"step 5", b"step 6"]
    assert ledger.steps(3, 6) is None
    assert ledger.latest().round_num == 6
    commit(ledger, 7)
    assert ledger.steps(5, 7) is None


def test_counted_rows_and_the_latest_of_a_sender(ledger: Ledger) -> None:
    commit(ledger, 0)
    first = [Counted(1, "pi-2", 5, b"d1"), Counted(1, "pi-1", 2**64 - 2, b"d2")]
    commit(ledger, 1, *first)
    second = Counted(2, "pi-2", 6, b"d3")
    commit(ledger, 2, second)
    commit(ledger, 3)
    assert ledger.counted_in(1) == first
    assert ledger.counted_in(2) == [second]
    assert ledger.counted_in(3) == []
    assert ledger.last_counted("pi-2") == second
    assert ledger.last_counted("pi-1") == first[1]
    assert ledger.last_counted("pi-3") is None


@pytest.mark.parametrize(
    ("counted", "reason"),
    [
        ([Counted(2, "a", 8, b""), Counted(2, "a", 9, b"")], "counted twice in round 2: a"),
        ([Counted(2, "b", 0, b""), Counted(2, "a", 7, b"")], "1 of 2 updates carry a sequence number"),
        ([Counted(2, "a", 6, b"")], "1 of 1 updates"),
        ([Counted(1, "a", 8, b"")], r"updates of rounds \[1\] in the commit of round 2"),
    ],
)
def test_an_update_is_counted_once_or_the_commit_changes_nothing(
    ledger: Ledger, counted: list[Counted], reason: str
) -> None:
    commit(ledger, 0)
    commit(ledger, 1, Counted(1, "a", 7, b""), step=b"one")
    with pytest.raises(StateError, match=reason):
        commit(ledger, 2, *counted, step=b"two")
    assert ledger.latest().round_num == 1
    assert ledger.latest().state == {"model": b"m1"}
    assert ledger.steps(1, 2) is None
    assert ledger.counted_in(2) == []
    assert ledger.last_counted("b") is None
    commit(ledger, 2, Counted(2, "a", 8, b""), Counted(2, "b", 0, b""))


def test_what_is_not_json_is_refused_before_anything_changes(ledger: Ledger) -> None:
    with pytest.raises(TypeError):
        commit(ledger, 0, value=object())
    assert ledger.latest() is None


def test_opened_in_one_thread_and_used_in_another(ledger: Ledger) -> None:
    commit(ledger, 0)
    thread = threading.Thread(target=commit, args=(ledger, 1))
    thread.start()
    thread.join()
    assert ledger.latest().round_num == 1
