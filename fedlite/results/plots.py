"""Plots as inline SVG: lines, bars and a grid of cells. No script; colours come from the page's CSS.

Every text that reaches the SVG is escaped here. Hovering shows the values, through SVG's own <title>.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from fedlite.results.units import log_ticks, number_text, ticks

WIDTH, HEIGHT = 560, 250
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 10, 38
COLORS = 6
MOST_BANDS = 160

Text = Callable[[float], str]


@dataclass(frozen=True)
class Series:
    """A named run of (x, y) points, in rising x; `color` is 0 … 5."""

    name: str
    points: Sequence[tuple[float, float]]
    color: int = 0


@dataclass(frozen=True)
class _Axis:
    """Data → pixels on one axis; `marks` are where it is labelled."""

    low: float
    high: float
    start: float
    end: float
    marks: Sequence[float]
    log: bool = False

    def at(self, value: float) -> float:
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    x_name: str,
    text: Text = number_text,
    tick: Text | None = None,
    most: float = math.inf,
    log: bool = False,
) -> str:
    """Lines over a shared x axis; with `log`, values ≤ 0 are left out. Empty text if nothing is left.

    `text` writes a value, `tick` one on the axis, where it differs; the axis stops at `most`.
    """
    kept = [_positive(each) if log else each for each in series]
    kept = [each for each in kept if each.points]
    if not kept:
        return ""
    xs = sorted({x for each in kept for x, _ in each.points})
    ys = [y for each in kept for _, y in each.points]
    x_axis, y_axis = _x_axis(xs), _y_axis(min(ys), max(ys), log, most)
    body = [_frame(x_axis, y_axis, x_name, tick or text)]
    body += [_line(each, x_axis, y_axis) for each in kept]
    body += _bands(xs, kept, x_axis, x_name, text)
    legend = [(each.name, each.color, text(each.points[-1][1])) for each in kept]
    return _figure(title, legend, _svg(title, body))


def bar_chart(
    title: str,
    labels: Sequence[str],
    series: Sequence[tuple[str, Sequence[float], int]],
    *,
    x_name: str,
    stacked: bool = True,
    text: Text = number_text,
) -> str:
    """One column per label; `series` are (name, values ≥ 0 in label order, color). Empty if all are 0."""
    if not labels or not series or max(max(values) for _, values, _ in series) <= 0:
        return ""
    totals = [sum(values[i] for _, values, _ in series) for i in range(len(labels))]
    tallest = max(totals) if stacked else max(max(values) for _, values, _ in series)
    y_axis = _y_axis(0.0, tallest)
    slot = (WIDTH - LEFT - RIGHT) / len(labels)
    body = [_frame(None, y_axis, x_name, text)]
    for index, label in enumerate(labels):
        column = [(name, values[index], color) for name, values, color in series]
        body.append(_column(column, LEFT + index * slot, slot, y_axis, stacked))
        tip = [f"{label}", *(f"{name}  {text(value)}" for name, value, _ in column)]
        tip += [f"total  {text(totals[index])}"] if stacked and len(column) > 1 else []
        body.append(_band(LEFT + index * slot, slot, tip))
    body += _column_labels(labels, slot)
    legend = [(name, color, "") for name, _, color in series]
    return _figure(title, legend, _svg(title, body))


def cell_grid(
    title: str,
    names: Sequence[str],
    columns: Sequence[str],
    cells: Sequence[Sequence[str]],
    kinds: Sequence[tuple[str, str, int]],
    *,
    x_name: str,
) -> str:
    """Names × columns; `cells` hold "" or a key of `kinds`, which are (key, what it means, color)."""
    if not names or not columns:
        return ""
    left, row_height = 150, 15 if len(names) <= 25 else 11
    slot = (2 * WIDTH - left - RIGHT) / len(columns)
    meaning = {key: (label, color) for key, label, color in kinds}
    body: list[str] = []
    for row, (name, line) in enumerate(zip(names, cells, strict=True)):
        y = TOP + row * row_height
        body.append(
            f'<text class="tick" text-anchor="end" x="{left - 8}" y="{y + row_height - 4}">{escape(_short(name, 22))}'
            f"<title>{escape(name)}</title></text>"
            f'<rect class="empty" x="{left}" y="{y}" width="{2 * WIDTH - left - RIGHT}" '
            f'height="{row_height - 2}"/>'
        )
        for first, last in _runs(line):
            label, color = meaning[line[first]]
            span = columns[first] if first == last else f"{columns[first]} … {columns[last]}"
            gap = 1 if slot > 4 else 0
            body.append(
                f'<rect class="fill c{color}" x="{left + first * slot:.1f}" y="{y}" '
                f'width="{(last - first + 1) * slot - gap:.1f}" height="{row_height - 2}">'
                f"<title>{escape(f'{name}{chr(10)}{x_name} {span}: {label}')}</title></rect>"
            )
    height = TOP + row_height * len(names) + 30
    body += _column_labels(columns, slot, left=left, y=height - 18, right=2 * WIDTH - RIGHT)
    body.append(
        f'<text class="name" text-anchor="middle" x="{left - 30}" y="{height - 18}">{escape(x_name)}</text>'
    )
    legend = [(label, color, "") for _, label, color in kinds]
    return _figure(title, legend, _svg(title, body, 2 * WIDTH, height), wide=True)


def _positive(series: Series) -> Series:
    return Series(series.name, [(x, y) for x, y in series.points if y > 0], series.color)


def _x_axis(xs: Sequence[float]) -> _Axis:
    """Marked at whole numbers where all x are whole: there is no round 1.5."""
    low, high = xs[0], xs[-1]
    whole = all(x == int(x) for x in xs)
    if low == high:
        room = max(1.0 if whole else 0.0, abs(low) / 4)
        low, high = low - room, high + room
    marks = [mark for mark in ticks(low, high, 7) if low <= mark <= high and (mark == int(mark) or not whole)]
    return _Axis(low, high, LEFT + 6, WIDTH - RIGHT - 6, marks)


def _y_axis(low: float, high: float, log: bool = False, most: float = math.inf) -> _Axis:
    marks = log_ticks(low, high) if log else ticks(low, high)
    marks = [mark for mark in marks if mark <= max(most, high)]
    return _Axis(marks[0], marks[-1], HEIGHT - BOTTOM, TOP, marks, log)


def _frame(x_axis: _Axis | None, y_axis: _Axis, x_name: str, text: Text) -> str:
    """Grid lines, tick labels and the name of the x axis."""
    parts = []
    for mark in y_axis.marks:
        y = y_axis.at(mark)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        at = f'x="{LEFT - 7}" y="{y + 3.5:.1f}"'
        parts.append(f'<text class="tick" text-anchor="end" {at}>{escape(text(mark))}</text>')
    if x_axis:
        y = HEIGHT - BOTTOM + 16
        for mark in x_axis.marks:
            x = x_axis.at(mark)
            parts.append(f'<text class="tick" text-anchor="middle" x="{x:.1f}" y="{y}">{mark:g}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(
        f'<text class="name" text-anchor="middle" x="{middle}" y="{HEIGHT - 5}">{escape(x_name)}</text>'
    )
    return "".join(parts)


def _line(series: Series, x_axis: _Axis, y_axis: _Axis) -> str:
    at = [(x_axis.at(x), y_axis.at(y)) for x, y in series.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
    dots = at if len(at) <= 40 else at[-1:]
    return f'<polyline class="line c{series.color}" points="{path}"/>' + "".join(
        f'<circle class="fill c{series.color}" cx="{x:.1f}" cy="{y:.1f}" r="2.4"/>' for x, y in dots
    )


def _bands(xs: Sequence[float], series: Sequence[Series], axis: _Axis, x_name: str, text: Text) -> list[str]:
    """Upright bands that show all values at their x when pointed at."""
    step = -(-len(xs) // MOST_BANDS)
    chosen = xs[::step]
    width = (axis.end - axis.start) / max(len(chosen) - 1, 1)
    values = [dict(each.points) for each in series]
    bands = []
    for x in chosen:
        tip = [f"{x_name} {x:g}"]
        tip += [f"{s.name}  {text(v[x])}" for s, v in zip(series, values, strict=True) if x in v]
        bands.append(_band(axis.at(x) - width / 2, width, tip))
    return bands


def _band(x: float, width: float, tip: Sequence[str]) -> str:
    start, end = max(x, LEFT), min(x + width, WIDTH - RIGHT)
    return (
        f'<rect class="band" x="{start:.1f}" y="{TOP}" width="{end - start:.1f}" '
        f'height="{HEIGHT - TOP - BOTTOM}">'
        f"<title>{escape(chr(10).join(tip))}</title></rect>"
    )


def _column(
    column: Sequence[tuple[str, float, int]], x: float, slot: float, y_axis: _Axis, stacked: bool
) -> str:
    """The bars of one label: on top of each other, or side by side."""
    room = slot * (0.86 if slot > 6 else 1.0)
    width = room if stacked else room / len(column)
    left, base, parts = x + (slot - room) / 2, 0.0, []
    for index, (_, value, color) in enumerate(column):
        top, bottom = y_axis.at(base + value), y_axis.at(base)
        at = left if stacked else left + index * width
        parts.append(
            f'<rect class="fill c{color}" x="{at:.1f}" y="{top:.1f}" width="{max(width - 0.4, 0.4):.1f}" '
            f'height="{max(bottom - top, 0):.1f}"/>'
        )
        base += value if stacked else 0.0
    return "".join(parts)


def _column_labels(
    labels: Sequence[str],
    slot: float,
    *,
    left: float = LEFT,
    y: float = HEIGHT - BOTTOM + 16,
    right: float = WIDTH - RIGHT,
) -> list[str]:
    """As many labels as fit without touching."""
    longest = max(len(label) for label in labels)
    most = max(1, int((right - left) / (5.8 * min(longest, 12) + 8)))
    step = -(-len(labels) // most)
    return [
        f'<text class="tick" text-anchor="middle" x="{left + (i + 0.5) * slot:.1f}" y="{y}">'
        f"{escape(_short(labels[i], 12))}</text>"
        for i in range(0, len(labels), step)
    ]


def _short(text: str, longest: int) -> str:
    """`text` with its middle left out: names differ at their ends."""
    tail = longest // 2 + 1
    return text if len(text) <= longest else f"{text[: longest - tail - 1]}…{text[-tail:]}"


def _runs(line: Sequence[str]) -> list[tuple[int, int]]:
    """(first, last) of each stretch of equal cells that are not empty."""
    runs: list[tuple[int, int]] = []
    for index, key in enumerate(line):
        if key and runs and runs[-1][1] == index - 1 and line[index - 1] == key:
            runs[-1] = (runs[-1][0], index)
        elif key:
            runs.append((index, index))
    return runs


def _svg(title: str, body: Sequence[str], width: int = WIDTH, height: int = HEIGHT) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">{"".join(body)}</svg>'
    )


def _figure(title: str, legend: Sequence[tuple[str, int, str]], svg: str, *, wide: bool = False) -> str:
    keys = "".join(
        f'<li><i class="c{color}"></i>{escape(name)}{f" <b>{escape(value)}</b>" if value else ""}</li>'
        for name, color, value in legend
    )
    caption = f"<figcaption>{escape(title)}<ul>{keys}</ul></figcaption>"
    return f'<figure class="card{" wide" if wide else ""}">{caption}{svg}</figure>'
