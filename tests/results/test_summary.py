import math

import pytest

from fedlite.results.summary import FleetTotal, cumulated, curve, fleets, number, summarize
from fedlite.results.units import (
    byte_text,
    energy_text,
    log_ticks,
    percent_text,
    ratio_text,
    seconds_text,
    ticks,
)

ROWS = [
    {
        "round": 1,
        "accuracy": 0.5,
        "uplink_ratio": 10.0,
        "seconds": {"collect": 2.0, "commit": 0.5},
        "clients": {"a": {"bytes_up": 100, "bytes_down": 1000, "num_examples": 7, "seconds": 2.0}},
        "dropped": {"b": "deadline"},
    },
    {
        "round": 2,
        "accuracy": 0.4,
        "accuracy_int8": 0.39,
        "uplink_ratio": 20.0,
        "seconds": {"collect": 1.5},
        "clients": {"a": {"bytes_up": 50}, "b": {"bytes_up": 400, "bytes_down": 30}},
        "dropped": {},
    },
]


def test_totals_by_hand() -> None:
    found = summarize(ROWS)
    assert (found.accuracy, found.best_accuracy, found.accuracy_int8, found.loss) == (0.4, 0.5, 0.39, None)
    assert (found.bytes_up, found.bytes_down) == (100 + 50 + 400, 1000 + 30)
    assert found.uplink_ratio == 15.0
    assert found.seconds == 4.0
    assert list(found.clients) == ["b", "a"]  # those that sent most first
    assert (found.clients["a"].rounds, found.clients["a"].dropped) == (2, 0)
    assert (found.clients["b"].rounds, found.clients["b"].dropped) == (1, 1)
    assert found.dropped == {("b", "deadline"): [1]}


@pytest.mark.parametrize("value", [None, "1", True, math.nan, math.inf, 10**400, [1], {}])
def test_what_is_no_number_counts_as_missing(value: object) -> None:
    assert number({"loss": value}, "loss") is None
    assert curve([{"round": 1, "loss": value}, {"round": value, "loss": 1.0}], "loss") == []


def test_no_rows_are_a_summary_too() -> None:
    assert summarize([]).accuracy is None
    assert summarize([{"clients": 3, "dropped": "x", "seconds": None}, {}]).rounds == 2


def test_a_fleets_totals_by_hand() -> None:
    def row(number: int, now: float, **more: object) -> dict[str, object]:
        return {"round": number, "fleet": {"now": now, "waited": 5.0, "joules": 1800.0, **more}}

    found = summarize([row(1, 60.0, late=2, bytes_up=10), row(2, 200.0, late=1, left=4), {"round": 3}])
    assert found.fleet == FleetTotal(200.0, 10.0, 1.0, 10, 0, {"late": 3, "left": 4})
    assert summarize(ROWS).fleet is None
    kinds = {"pi4": {"asked": 3, "counted": 2}, "phone": {"asked": 1, "counted": "x"}}
    both = summarize([row(1, 60.0, kinds=kinds), row(2, 70.0, kinds=kinds), row(3, 80.0, kinds={"pi4": 5})])
    assert both.fleet is not None
    assert both.fleet.kinds == {"phone": (2, 0), "pi4": (6, 4)}
    tables = fleets([row(1, 60.0), row(2, 200.0), {"round": 3, "fleet": "x"}, row(4, 300.0)])
    assert cumulated(tables, "joules", 3600) == [(1, 0.5), (2, 1.0), (4, 1.5)]


def test_texts() -> None:
    assert [byte_text(n) for n in (0, 999, 1000, 1_660_000, 20_000_000_000, None)] == [
        "0 B",
        "999 B",
        "1 kB",
        "1.66 MB",
        "20 GB",
        "–",
    ]
    assert [seconds_text(s) for s in (0, 0.82, 12.34, 245, 2229, 7380, 273_600)] == [
        "0 s",
        "820 ms",
        "12.3 s",
        "4 min 05 s",
        "37 min",
        "2 h 03 min",
        "3 d 04 h",
    ]
    assert [energy_text(e) for e in (0, 0.0123, 1.66, 20_000, None)] == [
        "0 Wh",
        "12.3 mWh",
        "1.66 Wh",
        "20 kWh",
        "–",
    ]
    assert percent_text(0.8123) == "81.2 %"
    assert ratio_text(31.25) == "31.2×"


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.5, 1]), (0.62, 0.81, [0.6, 0.65, 0.7, 0.75, 0.8, 0.85]), (1, 40, [0, 10, 20, 30, 40])],
)
def test_ticks_by_hand(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high, 5 if high != 1 else 3) == expected


@pytest.mark.parametrize(
    ("low", "high"), [(0, 0), (5, 5), (-3, -3), (-1e-9, 1e-9), (1e12, 1e12 + 1), (-7, 1e6)]
)
def test_ticks_cover_what_they_are_given(low: float, high: float) -> None:
    marks = ticks(low, high)
    assert marks[0] <= low <= high <= marks[-1]
    assert marks == sorted(set(marks))
    assert len(marks) <= 9


def test_log_ticks_are_powers_of_ten_with_twos_and_fives_when_few() -> None:
    assert log_ticks(3, 40) == [1, 2, 5, 10, 20, 50, 100]
    assert log_ticks(1, 9e4) == [1, 10, 100, 1000, 10_000, 100_000]
    assert log_ticks(10, 10) == [10, 20, 50, 100]
