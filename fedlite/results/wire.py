"""Payload against what went over the wire for it, over a whole run; rows that do not say what did are left out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedlite.results.summary import Row, number, reports
from fedlite.results.units import DASH, byte_text, percent_text

WAYS = ("down", "up")


@dataclass(frozen=True)
class Carried:
    """Bytes one way in some rounds of some clients: of payloads, and of all that went over the wire."""

    payload: int = 0
    wire: int = 0
    rounds: int = 0

    def __add__(self, other: "Carried") -> "Carried":
        return Carried(self.payload + other.payload, self.wire + other.wire, self.rounds + other.rounds)

    @property
    def overhead(self) -> float | None:
        """0.05: the wire carried 5 % more than the payload; None where there was no payload."""
        return self.wire / self.payload - 1 if self.payload else None

    @property
    def each_round(self) -> float | None:
        """Bytes beside the payload of a client in a round, on average."""
        return (self.wire - self.payload) / self.rounds if self.rounds else None


def carried(rows: Sequence[Row], way: str) -> dict[str, Carried]:
    """By client, those only of whom it is known; `way` is up or down."""
    found: dict[str, Carried] = {}
    for row in rows:
        for name, each in reports(row).items():
            wire, payload = number(each, f"wire_{way}"), number(each, f"bytes_{way}")
            if wire is not None and wire >= 0:
                here = Carried(max(0, int(payload or 0)), int(wire), 1)
                found[name] = found.get(name, Carried()) + here
    return found


def way_lines(rows: Sequence[Row]) -> list[list[str]]:
    """(way, payload, wire, overhead, overhead of a client in a round, client rounds that are known), as text."""
    totals = {way: sum(carried(rows, way).values(), Carried()) for way in WAYS}
    known = [each for each in totals.values() if each.rounds]
    if not known:
        return []
    asked = sum(len(reports(row)) for row in rows)
    lines = [
        [way, *_words(each), byte_text(each.each_round), f"{each.rounds:,} of {asked:,}"]
        for way, each in totals.items()
    ]
    both = byte_text(sum(each.each_round or 0 for each in known))
    return [*lines, ["both", *_words(sum(known, Carried())), both, ""]]


def client_words(ways: Mapping[str, Mapping[str, Carried]], name: str) -> list[str]:
    """One client's bytes on the wire, up and down, and what that is more than its payloads."""
    up, down = (ways[way].get(name, Carried()) for way in ("up", "down"))
    sizes = [byte_text(each.wire if each.rounds else None) for each in (up, down)]
    return [*sizes, percent_text((up + down).overhead)]


def _words(each: Carried) -> list[str]:
    if not each.rounds:
        return [DASH] * 3
    return [byte_text(each.payload), byte_text(each.wire), percent_text(each.overhead)]
