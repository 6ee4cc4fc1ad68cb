"""Cosine over ratio, every method's points, as one SVG that stands alone: a panel for each model."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from fedlite.results.style import CSS
from scripts.reproduce.published.front import RATIOS
from scripts.reproduce.published.settings import METHODS, OURS

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 400, 62, 14, 46, 40
RATIO_MARKS = (2, 4, 8, 16, 32, 64, 128, 300, 1000)
COSINE_MARKS = (0.2, 0.5, 0.8, 0.9, 0.97, 0.99, 0.997, 0.999, 0.9999)
LOW, HIGH = 0.0, 4.6  # −log10(1 − cosine)


def svg(results: Mapping[str, Any]) -> str:
    """The panels under each other."""
    body = "".join(
        f'<g class="grid" transform="translate(0 {index * HEIGHT})">{_panel(name, each["points"])}</g>'
        for index, (name, each) in enumerate(results["models"].items())
    )
    high = HEIGHT * len(results["models"])
    rules = (
        f"{CSS}text{{font:11px system-ui,sans-serif;fill:var(--ink)}}text.title{{font-size:14px;font-weight:620}}"
        "circle.open{fill:var(--card);stroke:var(--c);stroke-width:1.5}"
    )
    box = f'viewBox="0 0 {WIDTH} {high}" width="{WIDTH}" height="{high}"'
    page = '<rect width="100%" height="100%" fill="var(--card)"/>'
    style = f"<style>{escape(rules, quote=False)}</style>"
    return f'<svg xmlns="http://www.w3.org/2000/svg" {box}>{style}{page}{body}</svg>\n'


def _panel(model: str, points: Sequence[Mapping[str, Any]]) -> str:
    title = f"{model}: one update, cosine after decoding over how many times smaller it is"
    parts = [f'<text class="title" x="8" y="16">{escape(title)}</text>', _legend(), _grid()]
    for color, method in enumerate((OURS, *METHODS)):
        of_it = [each for each in points if each["method"] == method]
        parts += [_dot(each, color) for each in of_it if _x(each["ratio"]) is not None]
    best = [each for each in points if each.get("front") and _x(each["ratio"]) is not None]
    path = " ".join(
        f"{_x(each['ratio']):.1f},{_y(each['cosine']):.1f}"
        for each in sorted(best, key=lambda each: float(each["bytes"]))
    )
    return "".join([*parts, f'<polyline class="line c0" points="{path}"/>'])


def _legend() -> str:
    parts, x = [], 8
    for color, name in enumerate((OURS, *METHODS)):
        parts.append(f'<rect class="fill c{color}" x="{x}" y="25" width="10" height="10"/>')
        parts.append(f'<text x="{x + 15}" y="34">{escape(name)}</text>')
        x += 34 + 7 * len(name)
    return "".join([*parts, f'<text x="{x}" y="34">open: coded better than its paper does</text>'])


def _grid() -> str:
    parts = []
    for mark in COSINE_MARKS:
        y = _y(mark)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" text-anchor="end" x="{LEFT - 7}" y="{y + 3.5:.1f}">{mark:g}</text>')
    for ratio in RATIO_MARKS:
        x, ends = _x(ratio), ratio in RATIOS
        line = f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        parts.append(line if ends else "")
        parts.append(
            f'<text class="tick" text-anchor="middle" x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}">{ratio}×</text>'
        )
    return "".join(parts)


def _dot(point: Mapping[str, Any], color: int) -> str:
    look = "open" if point["kinder"] else "fill"
    tip = f"{point['method']}: {point['setting']}\n{point['ratio']:.1f}×, cosine {point['cosine']:.4f}"
    at = f'cx="{_x(point["ratio"]):.1f}" cy="{_y(point["cosine"]):.1f}"'
    return f'<circle class="{look} c{color}" {at} r="3"><title>{escape(tip)}</title></circle>'


def _x(ratio: float) -> float | None:
    low, high = RATIO_MARKS[0], RATIO_MARKS[-1]
    if not low <= ratio <= high:
        return None
    return LEFT + math.log(ratio / low) / math.log(high / low) * (WIDTH - LEFT - RIGHT)


def _y(cosine: float) -> float:
    level = min(max(-math.log10(max(1 - cosine, 1e-9)), LOW), HIGH)
    return HEIGHT - BOTTOM - (level - LOW) / (HIGH - LOW) * (HEIGHT - TOP - BOTTOM)
