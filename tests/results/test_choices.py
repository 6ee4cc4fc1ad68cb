"""What clients with an uplink budget chose, in the report."""

import pytest

from fedlite.results.choices import choice_words, choices
from fedlite.results.report import render
from tests.results.rows import rows
from tests.results.test_report import Page

ROWS = [
    {
        "round": 1,
        "deviations": 3.0,
        "clients": {"a": {"deviations": 2.0, "uplink_budget": 5000}, "b": {"deviations": 4.0}, "c": {}},
    },
    {"round": 2, "deviations": 3.0, "clients": {"a": {"deviations": 3.0, "uplink_budget": 8000}}},
]


def test_means_by_hand() -> None:
    found = choices(ROWS)
    assert choice_words(found, "a") == ["2.5", "8 kB"]
    assert choice_words(found, "b") == ["4", "–"]
    assert choice_words(found, "c") == ["–", "–"]


def test_the_report_shows_them_by_round_and_by_client() -> None:
    texts = Page(render({}, ROWS, name="run")).texts
    assert {"step", "budget", "2.5", "8 kB"} <= set(texts)
    assert any("Step within the uplink budget" in text for text in texts)
    assert "budget" not in Page(render({}, rows(3), name="run")).texts


@pytest.mark.parametrize("odd", ["many", None, True, [], 10**400])
def test_what_is_no_number_was_not_chosen(odd: object) -> None:
    assert choices([{"round": 1, "clients": {"a": {"deviations": odd}}}]) == {}
