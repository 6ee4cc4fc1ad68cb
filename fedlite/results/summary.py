"""What a run's rows add up to. From a file, so a key of the wrong kind counts as missing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any

LARGEST = 1e300  # also keeps out infinity, NaN, and integers that no float holds
LOST = {  # what a row says of a simulated fleet → what it means
    "late": "late",
    "failed": "broke off",
    "left": "left",
    "absent": "not there",
    "unfit": "too little memory",
}
FLEET_SUMS = ("waited", "joules", "bytes_up", "bytes_down")
JOULES_PER_WATT_HOUR = 3600
Row = Mapping[str, Any]
Points = list[tuple[float, float]]


@dataclass(frozen=True)
class ClientTotal:
    """One client over the whole run."""

    rounds: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    num_examples: int = 0
    seconds: float = 0.0
    dropped: int = 0


@dataclass(frozen=True)
class FleetTotal:
    """A simulated fleet over the whole run: virtual seconds, energy, how many clients were lost why or counted."""

    seconds: float
    waited: float
    watt_hours: float
    bytes_up: int
    bytes_down: int
    lost: Mapping[str, int]
    kinds: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # of device → (asked, counted)


@dataclass(frozen=True)
class Summary:
    """The run in a dozen numbers; None where no row has it."""

    rounds: int
    accuracy: float | None
    best_accuracy: float | None
    accuracy_int8: float | None
    loss: float | None
    prequential: float | None
    bytes_up: int
    bytes_down: int
    uplink_ratio: float | None
    seconds: float | None
    fleet: FleetTotal | None = None
    clients: Mapping[str, ClientTotal] = field(default_factory=dict)
    dropped: Mapping[tuple[str, str], Sequence[int]] = field(default_factory=dict)


def summarize(rows: Sequence[Row]) -> Summary:
    """Last values, totals and means over the rows."""
    clients = _clients(rows)
    ratios = [y for _, y in curve(rows, "uplink_ratio")]
    durations = [sum(phases(row).values()) for row in rows if phases(row)]
    accuracy = curve(rows, "accuracy")
    return Summary(
        rounds=len(rows),
        accuracy=_last(accuracy),
        best_accuracy=max((y for _, y in accuracy), default=None),
        accuracy_int8=_last(curve(rows, "accuracy_int8")),
        loss=_last(curve(rows, "loss")),
        prequential=_last(curve(rows, "prequential")),
        bytes_up=sum(each.bytes_up for each in clients.values()),
        bytes_down=sum(each.bytes_down for each in clients.values()),
        uplink_ratio=sum(ratios) / len(ratios) if ratios else None,
        seconds=sum(durations) if durations else None,
        fleet=_fleet(rows),
        clients=clients,
        dropped=_dropped(rows),
    )


def number(row: Mapping[str, Any], key: str) -> float | None:
    """A finite number under `key`, or None."""
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if -LARGEST < value < LARGEST else None


def mapping(row: Row, key: str) -> Mapping[str, Any]:
    """A table under `key`; empty if there is none."""
    value = row.get(key)
    return value if isinstance(value, Mapping) else {}


def curve(rows: Sequence[Row], key: str) -> Points:
    """(round, value) where both are there, in rising rounds."""
    found = {number(row, "round"): number(row, key) for row in rows}
    return sorted((x, y) for x, y in found.items() if x is not None and y is not None)


def traffic(row: Row, key: str) -> float:
    """Bytes of one row over all its clients; `key` is bytes_up or bytes_down."""
    return sum(number(each, key) or 0 for each in reports(row).values())


def reports(row: Row) -> dict[str, Mapping[str, Any]]:
    """What each client of a row reported."""
    return {name: each for name, each in mapping(row, "clients").items() if isinstance(each, Mapping)}


def phases(row: Row) -> dict[str, float]:
    """Seconds by phase of one row; a phase is never negative."""
    table = mapping(row, "seconds")
    return {name: max(0.0, number(table, name) or 0.0) for name in table}


def fleets(rows: Sequence[Row]) -> list[dict[str, float]]:
    """What rows say of a simulated fleet, by round, those that say nothing left out; numbers ≥ 0 only."""
    found = []
    for row in rows:
        table = {**mapping(row, "fleet"), "round": row.get("round")}
        each = {key: value for key in table if (value := number(table, key)) is not None and value >= 0}
        if "now" in each and "round" in each:
            found.append(each)
    return found


def cumulated(tables: Sequence[Mapping[str, float]], key: str, unit: float = 1.0) -> Points:
    """(round, sum so far in this unit)."""
    sums = accumulate(each.get(key, 0.0) / unit for each in tables)
    return sorted({each["round"]: total for each, total in zip(tables, sums, strict=True)}.items())


def _fleet(rows: Sequence[Row]) -> FleetTotal | None:
    tables = fleets(rows)
    if not tables:
        return None
    total = {key: sum(each.get(key, 0.0) for each in tables) for key in (*FLEET_SUMS, *LOST)}
    return FleetTotal(
        seconds=max(each["now"] for each in tables),
        waited=total["waited"],
        watt_hours=total["joules"] / JOULES_PER_WATT_HOUR,
        bytes_up=int(total["bytes_up"]),
        bytes_down=int(total["bytes_down"]),
        lost={meaning: int(total[key]) for key, meaning in LOST.items() if total[key]},
        kinds=_kinds(rows),
    )


def _kinds(rows: Sequence[Row]) -> dict[str, tuple[int, int]]:
    """Kind of device → (how many were asked, how many counted)."""
    found: dict[str, tuple[int, int]] = {}
    for row in rows:
        kinds = mapping(mapping(row, "fleet"), "kinds")
        for name in kinds:
            asked, counted = (
                max(0, int(number(mapping(kinds, name), key) or 0)) for key in ("asked", "counted")
            )
            before = found.get(name, (0, 0))
            found[name] = (before[0] + asked, before[1] + counted)
    return dict(sorted(found.items()))


def _last(points: Points) -> float | None:
    return points[-1][1] if points else None


def _clients(rows: Sequence[Row]) -> dict[str, ClientTotal]:
    """Totals by client, those that sent most first."""
    totals: dict[str, ClientTotal] = {}
    for row in rows:
        for name, each in reports(row).items():
            totals[name] = _plus(totals.get(name, ClientTotal()), each)
        for name in mapping(row, "dropped"):
            before = totals.get(name, ClientTotal())
            totals[name] = replace(before, dropped=before.dropped + 1)
    order = sorted(totals, key=lambda name: (-totals[name].bytes_up, name))
    return {name: totals[name] for name in order}


def _plus(total: ClientTotal, each: Mapping[str, Any]) -> ClientTotal:
    return replace(
        total,
        rounds=total.rounds + 1,
        bytes_up=total.bytes_up + int(number(each, "bytes_up") or 0),
        bytes_down=total.bytes_down + int(number(each, "bytes_down") or 0),
        num_examples=total.num_examples + int(number(each, "num_examples") or 0),
        seconds=total.seconds + (number(each, "seconds") or 0.0),
    )


def _dropped(rows: Sequence[Row]) -> dict[tuple[str, str], list[int]]:
    """(client, reason) → the rounds it happened in."""
    found: dict[tuple[str, str], list[int]] = {}
    for row in rows:
        for name, reason in mapping(row, "dropped").items():
            found.setdefault((name, str(reason)), []).append(int(number(row, "round") or 0))
    return found
