"""What a link bears of a report, and what a row says of it."""

import pytest

from fedlite.budget import budget_bytes, carried, longest, recorded, told
from fedlite.errors import SettingsError
from fedlite.uplink import clear_size, rounded


def test_a_link_bears_its_rate_times_the_time_less_what_else_goes_up() -> None:
    """100 kbit/s for 30 s are 375 000 bytes; 5 % and 400 bytes are for TLS, frames and headers."""
    assert budget_bytes("", "100kbit/s", "") == budget_bytes("", "100kbit/s", "30s") == 355_850
    assert budget_bytes("", "100kbit/s", "1min") == 712_100
    assert carried(1e5, 0.01) < 0


def test_of_a_budget_and_a_link_the_smaller_counts() -> None:
    assert budget_bytes("50kB", "100kbit/s", "30s") == 50_000
    assert budget_bytes("500kB", "100kbit/s", "30s") == 355_850
    assert budget_bytes("50kB", "", "") == 50_000
    assert budget_bytes("", "", "") == 0


def test_a_link_that_carries_no_report_is_refused() -> None:
    with pytest.raises(SettingsError, match="--link 1kbit/s carries no report in --round-time 3s"):
        budget_bytes("", "1kbit/s", "3s")


def test_a_row_says_what_was_chosen_and_of_how_many_bytes() -> None:
    assert recorded({"loss": 1.0}, 500) == {}
    assert recorded(told(2.5, 0), 500) == {"deviations": 2.5, "uplink_budget": 500}
    assert recorded(told(2.5, 700), 500) == {"deviations": 2.5, "uplink_budget": 700}
    assert recorded({"deviations": 2.5, "uplink_budget": 1e300}, 500) == {"deviations": 2.5}
    assert recorded({"deviations": 2.5, "uplink_budget": -1.0}, 500) == {"deviations": 2.5}


@pytest.mark.parametrize("deviations", [0.1, 0.1001, 0.9999, 1.234, 12.34, 64.0])
@pytest.mark.parametrize("own", [0, 700, 1_234_567])
def test_no_choice_takes_more_characters_than_the_longest(deviations: float, own: int) -> None:
    size = clear_size(rounded(told(deviations, own)), 0)
    assert size <= clear_size(rounded(longest(own)), 0) <= size + 3
