"""Which plots a run's report shows, and how many rounds and clients fit into each."""

from collections.abc import Sequence

from fedlite.results import plots, summary
from fedlite.results.summary import Row, Summary
from fedlite.results.units import (
    byte_text,
    energy_text,
    percent_text,
    ratio_text,
    seconds_text,
    tick_percent_text,
)

MOST_GRID_ROWS = 40
MOST_GRID_COLUMNS = 120
MOST_BARS = 60

ACCURACY = (
    ("accuracy", "test", 0),
    ("accuracy_int8", "int8", 1),
    ("prequential", "online, before learning", 3),
)
LOSS = (("loss", "test", 0), ("train_loss", "training", 2))
ON_WIRE = (("wire_up", "up, wire", 3), ("wire_down", "down, wire", 4))
KINDS = (("in", "took part", 2), ("out", "not asked", 5), ("lost", "dropped", 1))


def figures(rows: Sequence[Row], found: Summary) -> list[str]:
    """The plots of a run; one that has nothing to show is empty text. Names in `rows` are printable already."""
    return [
        plots.line_chart(
            "Accuracy",
            _series(rows, ACCURACY),
            x_name="round",
            text=percent_text,
            tick=tick_percent_text,
            most=1.0,
        ),
        plots.line_chart("Loss", _series(rows, LOSS), x_name="round"),
        _traffic_figure(rows),
        _phase_figure(rows),
        _client_figure(found),
        plots.line_chart(
            "Uplink: dense float32 over payload",
            _series(rows, (("uplink_ratio", "ratio", 3),)),
            x_name="round",
            text=ratio_text,
        ),
        plots.line_chart(
            "Step within the uplink budget, in root mean squares of an update, mean",
            _series(rows, (("deviations", "step", 2),)),
            x_name="round",
        ),
        _participation(rows, found),
        *_fleet_figures(rows),
    ]


def _series(rows: Sequence[Row], wanted: Sequence[tuple[str, str, int]]) -> list[plots.Series]:
    return [plots.Series(label, summary.curve(rows, key), color) for key, label, color in wanted]


def _traffic_figure(rows: Sequence[Row]) -> str:
    """Bytes by round; a log axis when they differ by more than thirty times."""
    ways = [("up", "bytes_up", 0), ("down", "bytes_down", 1)]
    tables = [
        [{"round": row.get("round"), key: summary.traffic(row, key)} for row in rows] for _, key, _ in ways
    ]
    series = [
        plots.Series(label, summary.curve(table, key), color)
        for (label, key, color), table in zip(ways, tables, strict=True)
    ]
    on_wire = [each for each in _series(rows, ON_WIRE) if each.points]
    series = [*on_wire, *series]  # payloads are drawn over them
    values = [y for each in series for _, y in each.points if y > 0]
    if not values:
        return ""
    log = max(values) > 30 * min(values)
    title = "Bytes by round, all clients" + (" (log scale)" if log else "")
    return plots.line_chart(title, series, x_name="round", text=byte_text, log=log)


def _phase_figure(rows: Sequence[Row]) -> str:
    """Seconds by phase; many rounds are drawn as the mean of some neighbours."""
    timed = [row for row in rows if summary.phases(row)]
    if not timed:
        return ""
    names = list(dict.fromkeys(name for row in timed for name in summary.phases(row)))[: plots.COLORS]
    groups, size = _groups(timed)
    series = [
        (
            name,
            [sum(summary.phases(row).get(name, 0.0) for row in group) / len(group) for group in groups],
            color,
        )
        for color, name in enumerate(names)
    ]
    title = "Seconds by phase" + (f", mean of {size} rounds" if size > 1 else "")
    labels = [_span(group) for group in groups]
    return plots.bar_chart(title, labels, series, x_name="round", text=seconds_text)


def _fleet_figures(rows: Sequence[Row]) -> list[str]:
    """What the run would have taken a real fleet: time to accuracy, energy, bytes, and who was lost."""
    tables = summary.fleets(rows)
    if not tables:
        return []
    accuracy = dict(summary.curve(rows, "accuracy"))
    by_hour = sorted(
        {each["now"] / 3600: accuracy[each["round"]] for each in tables if each["round"] in accuracy}.items()
    )
    energy = summary.cumulated(tables, "joules", summary.JOULES_PER_WATT_HOUR)
    ways = [
        plots.Series(label, summary.cumulated(tables, f"bytes_{label}"), color)
        for label, color in (("up", 0), ("down", 1))
    ]
    return [
        plots.line_chart(
            "Accuracy by the virtual clock",
            [plots.Series("test", by_hour)],
            x_name="virtual hours",
            text=percent_text,
            tick=tick_percent_text,
            most=1.0,
        ),
        plots.line_chart(
            "Energy so far, all devices",
            [plots.Series("energy", energy, 3)],
            x_name="round",
            text=energy_text,
        ),
        plots.line_chart("Bytes so far, all devices", ways, x_name="round", text=byte_text),
        _lost_figure(tables),
    ]


def _lost_figure(tables: Sequence[Row]) -> str:
    """Clients by what kept them from being counted; many rounds are drawn as the mean of some neighbours."""
    groups, size = _groups(tables)
    series = [
        (meaning, [sum(each.get(key, 0.0) for each in group) / len(group) for group in groups], color)
        for color, (key, meaning) in enumerate(summary.LOST.items())
    ]
    title = "Clients lost" + (f", mean of {size} rounds" if size > 1 else "")
    labels = [_span(group) for group in groups]
    return plots.bar_chart(title, labels, [each for each in series if any(each[1])], x_name="round")


def _groups(rows: Sequence[Row]) -> tuple[list[Sequence[Row]], int]:
    """(neighbouring rows that share a bar, how many at most)."""
    size = -(-len(rows) // MOST_BARS)
    return [rows[start : start + size] for start in range(0, len(rows), size)], size


def _client_figure(found: Summary) -> str:
    """Bytes by client, both ways, for as many as can be read."""
    some = list(found.clients.items())[:12]
    series = [
        ("up", [each.bytes_up for _, each in some], 0),
        ("down", [each.bytes_down for _, each in some], 1),
    ]
    title = "Bytes by client" + (
        f", {len(some)} of {len(found.clients)}" if len(some) < len(found.clients) else ""
    )
    return plots.bar_chart(
        title, [name for name, _ in some], series, x_name="client", stacked=False, text=byte_text
    )


def _participation(rows: Sequence[Row], found: Summary) -> str:
    """Who took part when: clients × rounds; those most often dropped first where not all fit."""
    by_loss = sorted(found.clients, key=lambda name: (-found.clients[name].dropped, name))
    names = sorted(by_loss[:MOST_GRID_ROWS])
    size = max(1, -(-len(rows) // MOST_GRID_COLUMNS))
    groups = [rows[start : start + size] for start in range(0, len(rows), size)]
    cells = [[_state(group, name) for group in groups] for name in names]
    title = "Participation" + (
        f", {len(names)} of {len(by_loss)} clients" if len(names) < len(by_loss) else ""
    )
    return plots.cell_grid(
        title, names, [_span(group) for group in groups], cells, KINDS[::2], x_name="round"
    )


def _state(group: Sequence[Row], name: str) -> str:
    if any(name in row["dropped"] for row in group):
        return "lost"
    return "in" if any(name in row["clients"] for row in group) else ""


def _span(group: Sequence[Row]) -> str:
    first, last = (summary.number(row, "round") for row in (group[0], group[-1]))
    if first is None or last is None:
        return "?"
    return f"{first:g}" if first == last else f"{first:g}–{last:g}"
