"""Invented rows of a run, with everything a row can hold, from a named stream."""

from typing import Any

from fedlite.seeds import generator

HOSTILE = "</title><script>alert(1)</script>\"'&\u202e"


def rows(rounds: int = 12, clients: int = 5, *, fleet: bool = False) -> list[dict[str, Any]]:
    names = [f"kitchen-pi-{index}" for index in range(clients - 1)] + [HOSTILE]
    numbers = range(1, rounds + 1)
    return [_row(number, names) | ({"fleet": on_a_clock(number)} if fleet else {}) for number in numbers]


def _row(number: int, names: list[str]) -> dict[str, Any]:
    draw = generator(0, "row", number)
    asked = [name for name in names if draw.random() < 0.8] or names[:1]
    lost = {name: "deadline passed <b>" for name in asked[1:] if draw.random() < 0.1}
    report = {"bytes_up": 50_000, "bytes_down": 200_000, "num_examples": 120, "seconds": 2.5}
    row: dict[str, Any] = {
        "round": number,
        "loss": 2.3 * 0.9**number,
        "accuracy": 0.9 - 0.8 * 0.85**number,
        "train_loss": 2.1 * 0.88**number,
        "num_clients": len(asked) - len(lost),
        "clients": {name: report for name in asked if name not in lost},
        "dropped": lost,
        "seconds": {"configure": 0.05, "collect": 3.0, "aggregate": 0.2, "evaluate": 0.3, "commit": 0.02},
        "uplink_ratio": 28.0 + number / 10,
        "prequential": 0.5 + number / 100,
    }
    return row | ({"accuracy_int8": row["accuracy"] - 0.005} if number % 5 == 0 else {})


def on_a_clock(number: int) -> dict[str, Any]:
    """A round of a simulated fleet, by the virtual clock: half an hour, 2 Wh."""
    figures: dict[str, Any] = {"now": 1800.0 * number, "seconds": 1500.0, "waited": 300.0, "joules": 7200.0}
    figures |= {"bytes_down": 10**6, "bytes_up": 2 * 10**5, "slowest": "pi3"}
    figures["kinds"] = {HOSTILE: {"asked": 8, "counted": 2}, "pi4": {"asked": 5, "counted": 5}}
    return figures | {"late": 3, "failed": number % 3, "left": 1, "absent": 0, "unfit": 2}
