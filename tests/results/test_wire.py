"""Payload against the wire, by hand."""

import pytest

from fedlite.results.report import render
from fedlite.results.wire import Carried, carried, way_lines
from tests.results.rows import rows
from tests.results.test_report import Page

ROWS = [
    {
        "round": 1,
        "wire_up": 1300,
        "wire_down": 6000,
        "clients": {
            "a": {"bytes_up": 500, "bytes_down": 2000, "wire_up": 600, "wire_down": 2500},
            "b": {"bytes_up": 500, "bytes_down": 2000, "wire_up": 700, "wire_down": 3500},
        },
    },
    {  # of b is not known what went over the wire: nor its payload counts
        "round": 2,
        "clients": {
            "a": {"bytes_up": 500, "bytes_down": 1000, "wire_up": 950, "wire_down": 1000},
            "b": {"bytes_up": 9000, "bytes_down": 9000},
        },
    },
]


def test_totals_by_hand() -> None:
    up, down = carried(ROWS, "up"), carried(ROWS, "down")
    assert up == {"a": Carried(1000, 1550, 2), "b": Carried(500, 700, 1)}
    assert down == {"a": Carried(3000, 3500, 2), "b": Carried(2000, 3500, 1)}
    assert up["a"].overhead == pytest.approx(0.55)
    assert Carried(0, 70, 1).overhead is None


def test_the_table_by_way_by_hand() -> None:
    """Down 7000 over 5000, up 2250 over 1500, in three of four client rounds; both together 9250 over 6500."""
    assert way_lines(ROWS) == [
        ["down", "5 kB", "7 kB", "40.0 %", "667 B", "3 of 4"],
        ["up", "1.5 kB", "2.25 kB", "50.0 %", "250 B", "3 of 4"],
        ["both", "6.5 kB", "9.25 kB", "42.3 %", "917 B", ""],
    ]


def test_the_report_has_it_by_way_and_by_client() -> None:
    shown = " ".join(" ".join(Page(render({}, ROWS, name="run")).texts).split())
    assert (
        "On the wire way payload on the wire overhead of a client in a round client rounds down 5 kB" in shown
    )
    assert "wire up wire down overhead" in shown
    assert "Bytes by round, all clients up, wire 1.3 kB down, wire 6 kB up 9.5 kB down 10 kB" in shown
    # a: 1550 + 3500 over 1000 + 3000
    assert "1.55 kB 3.5 kB 26.2 %" in shown


def test_where_nothing_is_on_a_wire_there_is_no_table_and_no_column() -> None:
    for some in (rows(3), rows(3, fleet=True), []):
        shown = " ".join(Page(render({}, some, name="run")).texts)
        assert "wire" not in shown
        assert way_lines(some) == []


@pytest.mark.parametrize("odd", [None, "x", -1, [], {}, True, 10**400, float("nan")])
def test_what_is_no_number_of_bytes_is_not_known(odd: object) -> None:
    clients = {"a": {"bytes_up": 5, "wire_up": odd, "wire_down": 7}, "b": {"bytes_down": odd, "wire_down": 9}}
    some = [{"round": 1, "clients": clients, "wire_up": odd, "wire_down": odd}]
    assert carried(some, "up") == {}
    assert carried(some, "down") == {"a": Carried(0, 7, 1), "b": Carried(0, 9, 1)}
    Page(render({}, some, name="run"))
