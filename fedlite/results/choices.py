"""What clients with an uplink budget chose over a run: how long a step, within how many bytes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedlite.results.summary import Row, number, reports
from fedlite.results.units import DASH, byte_text, number_text


@dataclass(frozen=True)
class Choices:
    """One client's: the sum of its steps over so many rounds, and its last budget in bytes."""

    deviations: float = 0.0
    rounds: int = 0
    budget: float | None = None


def choices(rows: Sequence[Row]) -> dict[str, Choices]:
    """By client, those only that had to choose."""
    found: dict[str, Choices] = {}
    for row in rows:
        for name, each in reports(row).items():
            if (deviations := number(each, "deviations")) is not None:
                before, budget = found.get(name, Choices()), number(each, "uplink_budget")
                found[name] = Choices(before.deviations + deviations, before.rounds + 1, budget)
    return found


def choice_words(found: Mapping[str, Choices], name: str) -> list[str]:
    """A client's mean step and its budget, as text."""
    each = found.get(name)
    if each is None:
        return [DASH] * 2
    return [number_text(each.deviations / each.rounds), byte_text(each.budget)]
