"""Strategies by name, with their options in the same string: `fedprox:mu=0.1`."""

import dataclasses
from collections.abc import Mapping

from fedlite.errors import SettingsError
from fedlite.strategies.base import Strategy
from fedlite.strategies.fedadam import FedAdam
from fedlite.strategies.fedavg import FedAvg
from fedlite.strategies.fedprox import FedProx

STRATEGIES: Mapping[str, type[FedAvg]] = {"fedavg": FedAvg, "fedprox": FedProx, "fedadam": FedAdam}


def split_spec(spec: str) -> tuple[str, dict[str, float]]:
    """`name:key=value,key=value` → (name, options). SettingsError when a value is not a number."""
    name, _, text = spec.partition(":")
    options: dict[str, float] = {}
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        try:
            options[key.strip()] = float(value)
        except ValueError:
            raise SettingsError(f"{part!r} in strategy {spec!r} is not key=number") from None
        if not equals:
            raise SettingsError(f"{part!r} in strategy {spec!r} is not key=number")
    return name, options


def strategy_by_name(spec: str) -> Strategy:
    """The strategy a spec names. SettingsError lists the strategies, or the options of one."""
    name, options = split_spec(spec)
    if name not in STRATEGIES:
        known = ", ".join([*STRATEGIES, "flwr:NAME for any strategy of flwr.serverapp.strategy"])
        raise SettingsError(f"unknown strategy {name!r}; there are {known}")
    kind = STRATEGIES[name]
    known_options = {item.name for item in dataclasses.fields(kind)}
    if odd := set(options) - known_options:
        raise SettingsError(f"{name} has no option {sorted(odd)}; it has {sorted(known_options)}")
    return kind(**options)
