"""What `python -m simulations devices` prints."""

from fedlite.virtual.devices import PROFILES
from simulations.devices import table


def test_every_profile_is_listed_with_its_numbers_and_where_they_come_from() -> None:
    """A Pi 4 as published; a phone's 4500 mAh at 3.85 V are 17.3 Wh."""
    lines = table().splitlines()
    (pi4,) = [line for line in lines if line.startswith("pi4 ") and "GFLOP/s" in line]
    for cell in ("11.9 GFLOP/s", "80 µs", "3968 MiB", "85.7 / 45.7 Mbit/s", "2.7 / 7.2 W", "mains"):
        assert cell in pi4
    (phone,) = [line for line in lines if line.startswith("phone ") and "GFLOP/s" in line]
    assert phone.endswith("17.3 Wh")
    for each in PROFILES.values():
        assert any(line.startswith(each.name) and line.endswith(each.source) for line in lines)
    assert "churn:MTBF/MTTR" in table()
