"""What a device has for a model, in words: `latency=5ms,size=1MB,memory=20MB`."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fedlite.errors import SettingsError
from fedlite.results.units import byte_text, seconds_text, three

_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6}
_BYTES = {
    "B": 1.0,
    "kB": 1e3,
    "KB": 1e3,
    "MB": 1e6,
    "GB": 1e9,
    "KiB": 2.0**10,
    "MiB": 2.0**20,
    "GiB": 2.0**30,
}
_COUNT = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}
_NUMBER = re.compile(r"([0-9]+(?:\.[0-9]+)?(?:e[0-9]{1,2})?)\s*([A-Za-zµ]*)")


def _count_text(value: float) -> str:
    return f"{value:,.0f}" if value < 1e6 else f"{three(value / 1e6)} M"


@dataclass(frozen=True)
class Kind:
    """A word of a budget: its units and how a figure reads. `effort` orders them: what costs little is asked first."""

    name: str
    means: str
    units: Mapping[str, float]
    text: Callable[[float], str]
    effort: int


KINDS = {
    kind.name: kind
    for kind in (
        Kind("parameters", "learned values", _COUNT, _count_text, 0),
        Kind("macs", "multiply-adds of one example, forward", _COUNT, _count_text, 0),
        Kind("size_float32", "bytes of model.safetensors", _BYTES, byte_text, 0),
        Kind("size", "bytes of model.int8.safetensors", _BYTES, byte_text, 1),
        Kind("latency", "median seconds of inference, float32", _SECONDS, seconds_text, 2),
        Kind("memory", "peak bytes of training above the loaded process", _BYTES, byte_text, 3),
    )
}


@dataclass(frozen=True)
class Limit:
    """The most that a model may have of one kind; > 0."""

    kind: Kind
    most: float


def parse_budget(text: str) -> tuple[Limit, ...]:
    """The limits of `latency=5ms,size=1MB`, the cheapest to check first. SettingsError for anything else."""
    limits: dict[str, Limit] = {}
    for part in text.split(","):
        name, equals, value = (each.strip() for each in part.partition("="))
        if not equals or name not in KINDS:
            raise SettingsError(
                f"{part!r} is no budget; possible are {', '.join(KINDS)}",
                remedy="write it as latency=5ms,size=1MB,memory=20MB",
            )
        if name in limits:
            raise SettingsError(f"{text!r} says {name} twice")
        limits[name] = Limit(KINDS[name], _amount(name, value))
    return tuple(sorted(limits.values(), key=lambda limit: limit.kind.effort))


def _amount(name: str, text: str) -> float:
    units = KINDS[name].units
    match = _NUMBER.fullmatch(text)
    if match is None or match[2] not in units:
        known = ", ".join(unit for unit in units if unit) or "none"
        raise SettingsError(f"{name} is {text!r}; a number and a unit ({known}) wanted")
    amount = float(match[1]) * units[match[2]]
    if not 0 < amount < math.inf:
        raise SettingsError(f"{name} is {text!r}; above 0 wanted")
    return amount
