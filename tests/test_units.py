"""Sizes, rates and times as people write them."""

import pytest

from fedlite.errors import SettingsError
from fedlite.units import bits_per_second_of, bytes_of, seconds_of


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("50000", 50_000),
        ("50kB", 50_000),
        ("50 kB", 50_000),
        ("50KB", 50_000),
        ("1.5MB", 1_500_000),
        ("64KiB", 65_536),
        (".5GB", 500_000_000),
        ("7B", 7),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert bytes_of(text) == size


@pytest.mark.parametrize(
    ("text", "rate"), [("100kbit/s", 1e5), ("2Mbit/s", 2e6), ("300bit/s", 300.0), ("12.5kB/s", 1e5)]
)
def test_rates(text: str, rate: float) -> None:
    assert bits_per_second_of(text) == rate


@pytest.mark.parametrize(("text", "seconds"), [("30s", 30), ("2min", 120), ("500ms", 0.5), ("1.5h", 5400)])
def test_times(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "kB", "50", "50kb", "-1kB", "0kB", "1e3", "50kB/s", "nan", "9" * 400 + "GB", "٣kB"]
)
def test_what_is_none_is_refused_with_what_would_be(text: str) -> None:
    if text != "50":
        with pytest.raises(SettingsError, match="50kB"):
            bytes_of(text)
    if text != "50kB/s":
        with pytest.raises(SettingsError, match="100kbit/s"):
            bits_per_second_of(text)
    with pytest.raises(SettingsError, match="2min"):
        seconds_of(text)
