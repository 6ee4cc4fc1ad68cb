"""Numbers as people read them: bytes, seconds, shares; and axis ticks that fall on round numbers."""

import math

DASH = "–"


def byte_text(count: float | None) -> str:
    """1.66 MB: decimal units (1 kB = 1,000 B), as radios and SD cards are sold."""
    if count is None:
        return DASH
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 999.5:
            return f"{three(count)} {unit}"
        count /= 1000
    return f"{three(count)} TB"


def seconds_text(seconds: float | None) -> str:
    """820 ms, 12.3 s, 4 min 05 s, 37 min, 2 h 03 min, 3 d 04 h."""
    if seconds is None:
        return DASH
    if 0 < seconds < 0.9995:
        return f"{three(seconds * 1000)} ms"
    if seconds < 99.95:
        return f"{three(seconds)} s"
    return _long_text(seconds)


def _long_text(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 10:
        return f"{minutes} min {rest:02d} s"
    if minutes < 60:
        return f"{round(seconds / 60)} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24:02d} h"


def energy_text(watt_hours: float | None) -> str:
    """640 mWh, 1.66 Wh, 20 kWh."""
    if watt_hours is None:
        return DASH
    if 0 < abs(watt_hours) < 0.9995:
        return f"{three(1000 * watt_hours)} mWh"
    if abs(watt_hours) < 999.5:
        return f"{three(watt_hours)} Wh"
    return f"{three(watt_hours / 1000)} kWh"


def percent_text(share: float | None) -> str:
    """0.8123 → 81.2 %."""
    return DASH if share is None else f"{100 * share:.1f} %"


def tick_percent_text(share: float) -> str:
    """0.8 → 80 %, 0.825 → 82.5 %: no digits that say nothing."""
    return f"{100 * share:.6g} %"


def ratio_text(ratio: float | None) -> str:
    """31.2 → 31.2×."""
    return DASH if ratio is None else f"{three(ratio)}×"


def number_text(value: float | None) -> str:
    """Four significant digits, without trailing zeros."""
    return DASH if value is None else f"{value:.4g}"


def three(value: float) -> str:
    """Three significant digits, never an exponent below a million: 0.012, 1.66, 16.6, 166."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{min(digits, 6)}f}".rstrip("0").rstrip(".") if digits else f"{value:.0f}"


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """About `about` round numbers that cover [low, high]: steps of 1, 2 or 5 times a power of ten.

    The first is ≤ low and the last ≥ high. (Heckbert 1990, "Nice numbers for graph labels", Graphics Gems)
    """
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        low, high = low - abs(low) / 2 - (low == 0), high + abs(high) / 2 + (high == 0)
    rough = (high - low) / max(about - 1, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(nice for nice in (1, 2, 5, 10) if rough <= nice * power * (1 + 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    digits = 1 - math.floor(math.log10(step))
    return [round(index * step, digits) for index in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten that cover [low, high], both > 0; 2 and 5 between them when there are few."""
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    last = max(last, first + 1)
    marks = (1, 2, 5) if last - first <= 2 else (1,)
    values = [mark * 10.0**power for power in range(first, last) for mark in marks]
    return [*values, 10.0**last]
