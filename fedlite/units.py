"""Sizes, rates and times as people write them: 50kB, 100kbit/s, 30s. Prefixes are powers of 1000; of 1024 with an i."""

import math
import re

from fedlite.errors import SettingsError

_FORM = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+) ?([A-Za-z/]*)")
_PREFIXES = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30}
_SECONDS = {"ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}
_LARGEST = 2.0**53  # whole numbers below are exact


def bytes_of(text: str) -> int:
    """`50kB`, `1.5MB`, `64KiB` or `50000` → bytes, a part of one dropped. SettingsError for anything else."""
    sizes = {prefix + "B": size for prefix, size in _PREFIXES.items()}
    return int(_number(text, {"": 1.0, **sizes}, "a size", "50000, 50kB, 1.5MB or 64KiB"))


def bits_per_second_of(text: str) -> float:
    """`100kbit/s`, `2Mbit/s` or `1kB/s` → bits a second. SettingsError for anything else."""
    bits = {prefix + "bit/s": size for prefix, size in _PREFIXES.items()}
    wide = {prefix + "B/s": 8 * size for prefix, size in _PREFIXES.items()}
    return _number(text, bits | wide, "a rate", "100kbit/s, 2Mbit/s or 12kB/s")


def seconds_of(text: str) -> float:
    """`30s`, `2min`, `500ms` or `1h` → seconds. SettingsError for anything else."""
    return _number(text, _SECONDS, "a time", "30s, 2min, 500ms or 1h")


def _number(text: str, units: dict[str, float], kind: str, forms: str) -> float:
    """SettingsError unless it is a number above 0 with one of these units."""
    found = _FORM.fullmatch(text.strip())
    if found is None or found[2] not in units:
        raise SettingsError(f"{text[:64]!r} is not {kind}", remedy=f"write it as {forms}")
    value = float(found[1]) * units[found[2]]
    if not 0 < value < _LARGEST or not math.isfinite(value):
        raise SettingsError(
            f"{text[:64]!r} is not {kind} above 0 and below 2⁵³", remedy=f"write it as {forms}"
        )
    return value
