"""report.html: a run on one page. One file, no script, no network; the page forbids itself both.

Client names, reasons and settings are strangers' text: escaped, and what cannot be printed is replaced.
"""

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from fedlite.results import summary, wire
from fedlite.results.choices import choice_words, choices
from fedlite.results.figures import figures
from fedlite.results.style import CSS
from fedlite.results.summary import ClientTotal, FleetTotal, Row, Summary
from fedlite.results.units import (
    DASH,
    byte_text,
    energy_text,
    number_text,
    percent_text,
    ratio_text,
    seconds_text,
)

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
MOST_LINES = 100
LONGEST_NAME = 64


def render(config: Mapping[str, Any], rows: Sequence[Row], *, name: str) -> str:
    """The page for one run's record and rows; a missing key leaves its curve out, and nothing raises."""
    rows = [_printable_row(row) for row in rows]
    found = summary.summarize(rows)
    body = [
        _header(config, name),
        _tiles(found),
        f'<div class="grid">{"".join(figures(rows, found))}</div>',
        _device_table(found),
        _wire_table(rows),
        _client_table(found, rows),
        _dropped_table(found),
        _settings(config),
    ]
    return page(name, body)


def page(title: str, parts: Sequence[str]) -> str:
    """A page of one's own parts, which are HTML already; self-contained, and allowed to load nothing."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(printable(title))} · fedlite</title><style>{CSS}</style></head>\n"
        f"<body><main>{chr(10).join(part for part in parts if part)}</main></body></html>\n"
    )


def printable(text: str, longest: int = LONGEST_NAME) -> str:
    """`text` without characters that could hide or reorder others, and not longer than a line."""
    clean = "".join(each if each.isprintable() else "\ufffd" for each in text[: longest + 1])
    return clean if len(clean) <= longest else clean[: longest - 1] + "…"


def _printable_row(row: Row) -> dict[str, Any]:
    """The row with its client names, reasons and phase names made printable."""
    clean = dict(row)
    for key in ("clients", "dropped", "seconds"):
        clean[key] = {
            printable(str(name)): printable(each, 200) if isinstance(each, str) else each
            for name, each in summary.mapping(row, key).items()
        }
    return clean


def _header(config: Mapping[str, Any], name: str) -> str:
    versions = summary.mapping(config, "versions")
    words = [f"{key} {value}" for key, value in versions.items() if value]
    words += [f"Python {config['python']}"] if config.get("python") else []
    words += [_commit(str(config["commit"]))] if config.get("commit") else []
    words += [str(config["platform"])] if config.get("platform") else []
    started = escape(printable(str(config.get("started") or "").replace("T", " ").replace("+00:00", " UTC")))
    facts = escape(" · ".join(printable(word, 100) for word in words))
    return f"<header><h1>{escape(printable(name))}</h1><p>{started}</p><p>{facts}</p></header>"


def _commit(commit: str) -> str:
    return f"commit {commit[:12]}" + (" with changes" if commit.endswith("+") else "")


def _tiles(found: Summary) -> str:
    ratio = f"{ratio_text(found.uplink_ratio)} smaller than float32" if found.uplink_ratio else ""
    best = f"best {percent_text(found.best_accuracy)}" if found.best_accuracy is not None else ""
    lost = sum(len(rounds) for rounds in found.dropped.values())
    tiles = [
        ("accuracy", percent_text(found.accuracy), best),
        ("int8 accuracy", percent_text(found.accuracy_int8), _drop(found)),
        ("loss", number_text(found.loss), ""),
        ("online accuracy", percent_text(found.prequential), "predict, then learn"),
        ("uplink", byte_text(found.bytes_up), ratio),
        ("downlink", byte_text(found.bytes_down), ""),
        ("rounds", str(found.rounds), ""),
        ("clients", str(len(found.clients)), f"{lost} results dropped" if lost else ""),
        ("time in rounds", seconds_text(found.seconds), _per_round(found)),
        *_fleet_tiles(found.fleet),
    ]
    shown = [tile for tile in tiles if tile[1] != DASH]
    return '<section class="tiles">' + "".join(_tile(*tile) for tile in shown) + "</section>"


def _fleet_tiles(fleet: FleetTotal | None) -> list[tuple[str, str, str]]:
    """What a simulated fleet would have taken."""
    if fleet is None:
        return []
    lost = "; ".join(f"{count:,} {meaning}" for meaning, count in fleet.lost.items())
    return [
        (
            "virtual time",
            seconds_text(fleet.seconds),
            f"{seconds_text(fleet.waited)} of it waiting" if fleet.waited else "",
        ),
        ("energy, all devices", energy_text(fleet.watt_hours), ""),
        ("up, all devices", byte_text(fleet.bytes_up), "lost updates too"),
        ("down, all devices", byte_text(fleet.bytes_down), ""),
        ("clients lost", f"{sum(fleet.lost.values()):,}", lost),
    ]


def _tile(label: str, value: str, note: str) -> str:
    return f'<div class="card tile"><span>{label}</span><b>{value}</b><small>{note}</small></div>'


def _drop(found: Summary) -> str:
    if found.accuracy is None or found.accuracy_int8 is None:
        return ""
    return f"{100 * (found.accuracy_int8 - found.accuracy):+.1f} points to float32"


def _per_round(found: Summary) -> str:
    return f"{seconds_text(found.seconds / found.rounds)} a round" if found.seconds and found.rounds else ""


def _device_table(found: Summary) -> str:
    """Whose updates a simulated fleet's model is made of."""
    kinds = found.fleet.kinds if found.fleet else {}
    lines = [
        [name, f"{asked:,}", f"{counted:,}", percent_text(counted / asked if asked else None)]
        for name, (asked, counted) in kinds.items()
    ]
    return _table("Devices", ["kind", "asked", "counted", "share"], lines, numeric_from=1) if lines else ""


def _wire_table(rows: Sequence[Row]) -> str:
    """What TLS, HTTP/2, signatures and offers cost beside the payloads, and payloads that did not count."""
    heads = ["way", "payload", "on the wire", "overhead", "of a client in a round", "client rounds"]
    lines = wire.way_lines(rows)
    return _table("On the wire", heads, lines, numeric_from=1) if lines else ""


def _client_table(found: Summary, rows: Sequence[Row]) -> str:
    heads = ["client", "rounds", "dropped", "up", "down", "examples", "seconds a round"]
    lines = [[name, *_client_cells(each)] for name, each in found.clients.items()]
    ways = {way: wire.carried(rows, way) for way in wire.WAYS}
    if any(ways.values()):
        heads += ["wire up", "wire down", "overhead"]
        lines = [[*line, *wire.client_words(ways, line[0])] for line in lines]
    if steps := choices(rows):
        heads += ["step", "budget"]
        lines = [[*line, *choice_words(steps, line[0])] for line in lines]
    return _table("Clients", heads, lines, numeric_from=1) if lines else ""


def _client_cells(each: ClientTotal) -> list[str]:
    mean = seconds_text(each.seconds / each.rounds) if each.rounds and each.seconds else DASH
    sizes = [byte_text(each.bytes_up), byte_text(each.bytes_down)]
    return [str(each.rounds), str(each.dropped), *sizes, f"{each.num_examples:,}", mean]


def _dropped_table(found: Summary) -> str:
    lines = [
        [name, reason, str(len(rounds)), printable(", ".join(map(str, rounds)))]
        for (name, reason), rounds in found.dropped.items()
    ]
    return _table("Dropped results", ["client", "reason", "times", "rounds"], lines) if lines else ""


def _settings(config: Mapping[str, Any]) -> str:
    lines = [[str(key), _value(value)] for key, value in summary.mapping(config, "settings").items()]
    parts = [_table("Settings", ["setting", "value"], lines)] if lines else []
    resumed = config.get("resumed")
    changes = [
        [str(each.get("started", "")), _value(each.get("changed", {}))]
        for each in (resumed if isinstance(resumed, list) else [])
        if isinstance(each, Mapping)
    ]
    parts += [_table("Resumed", ["when", "what changed"], changes)] if changes else []
    return "".join(parts)


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _table(
    title: str, heads: Sequence[str], lines: Sequence[Sequence[str]], *, numeric_from: int = 99
) -> str:
    """A table with a heading; what is past MOST_LINES is counted, not shown."""
    mark = [' class="number"' if column >= numeric_from else "" for column in range(len(heads))]
    head = "".join(f"<th{mark[i]}>{escape(text)}</th>" for i, text in enumerate(heads))
    body = "".join(
        "<tr>"
        + "".join(f"<td{mark[i]}>{escape(printable(text, 300))}</td>" for i, text in enumerate(line))
        + "</tr>"
        for line in lines[:MOST_LINES]
    )
    rest = f"<p>… and {len(lines) - MOST_LINES:,} more</p>" if len(lines) > MOST_LINES else ""
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<section class="card"><h2>{escape(title)}</h2><div class="scroll">{table}</div>{rest}</section>'
