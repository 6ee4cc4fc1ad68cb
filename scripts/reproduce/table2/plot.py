"""The curves as one SVG that stands alone: test accuracy by round, made monotone as in the paper, IID over non-IID."""

import itertools
import re
from collections.abc import Mapping
from html import escape
from typing import Any

from fedlite.results import plots
from fedlite.results.style import CSS
from fedlite.results.units import tick_percent_text
from scripts.reproduce.table2.cells import TARGET

FLOOR = 0.97  # what lies below is not drawn: there every curve is steep
GREY = plots.COLORS - 1
TITLE, LEGEND = 22, 18  # pixels above a chart: its title, and a row of its legend
TITLES = {"iid": "IID: 600 random images a client", "noniid": "non-IID: two shards of 300 a client"}


def svg(results: Mapping[str, Any]) -> str:
    """Both partitions under each other; one without a measured cell is left out."""
    body, top = "", 0
    for partition, title in TITLES.items():
        chart, height = _panel(partition, title, results["cells"])
        if chart:
            body += f'<g class="grid" transform="translate(0 {top})">{chart}</g>'
            top += height
    rules = f"{CSS}text{{font:11px system-ui,sans-serif;fill:var(--ink)}}text.title{{font-size:14px;font-weight:620}}"
    box = f'viewBox="0 0 {plots.WIDTH} {top}" width="{plots.WIDTH}" height="{top}"'
    page = '<rect width="100%" height="100%" fill="var(--card)"/>'
    style = f"<style>{escape(rules, quote=False)}</style>"
    return f'<svg xmlns="http://www.w3.org/2000/svg" {box}>{style}{page}{body}</svg>\n'


def _panel(partition: str, title: str, cells: Mapping[str, Any]) -> tuple[str, int]:
    """One chart with its title and legend, and its height."""
    series: list[plots.Series] = []
    keys: list[tuple[str, int]] = []
    for name, each in cells.items():
        points = _points(each["curve"]) if each["partition"] == partition else []
        if points:
            color = len(series) % GREY
            series.append(plots.Series(name, points, color))
            end = f"{each['ours']:.1f} rounds" if each["ours"] is not None else each["so_far"]
            keys.append((f"{name}: {end}, paper {each['paper']}", color))
    if not series:
        return "", 0
    last = max(x for each in series for x, _ in each.points)
    series.append(plots.Series("target", [(0, TARGET), (last, TARGET)], GREY))
    figure = plots.line_chart(
        title, series, x_name="round", text="{:.2%}".format, tick=tick_percent_text, most=1.0
    )
    found = re.search(r"<svg (.*</svg>)", figure, re.S)
    assert found is not None
    top = TITLE + LEGEND * -(-len(keys) // 2)
    chart = f'<svg y="{top}" width="{plots.WIDTH}" height="{plots.HEIGHT}" {found[1]}'
    return _head(title, keys) + chart, top + plots.HEIGHT + 10


def _points(curve: list[float]) -> list[tuple[float, float]]:
    """The monotone curve, where it lies above the floor."""
    best = itertools.accumulate(curve, max)
    return [(index, value) for index, value in enumerate(best, 1) if value >= FLOOR]


def _head(title: str, keys: list[tuple[str, int]]) -> str:
    parts = [f'<text class="title" x="8" y="16">{escape(title)}</text>']
    for index, (text, color) in enumerate(keys):
        x, y = 8 + (index % 2) * plots.WIDTH // 2, TITLE + LEGEND * (index // 2)
        parts.append(f'<rect class="fill c{color}" x="{x}" y="{y}" width="10" height="10"/>')
        parts.append(f'<text x="{x + 16}" y="{y + 9}">{escape(text)}</text>')
    return "".join(parts)
