import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fedlite.results import RunFolder
from fedlite.results.plots import Series, bar_chart, cell_grid, line_chart
from fedlite.results.report import printable, render
from tests.results.rows import HOSTILE, on_a_clock, rows

VOID = {"meta", "br"}


class Page(HTMLParser):
    """Collects tags, attributes and texts, and checks that every tag is closed in its place."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.links: list[str] = []
        self.handlers: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for key, value in attrs if key in ("src", "href", "srcset", "xlink:href")]
        self.handlers += [key for key, _ in attrs if key.startswith("on")]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_the_report_shows_the_run(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "kitchen", {"strategy": "fedadam", "codec": ["int8", "ans"]})
    for row in rows(12, 5):
        folder.append(row)
    path = folder.write_report()
    assert path == tmp_path / "kitchen" / "report.html"
    page = Page(path.read_text("utf-8"))
    assert page.tags.count("figure") == 7
    shown = " ".join(page.texts)
    wanted = (
        "kitchen",
        "Accuracy",
        "Loss",
        "Bytes by round",
        "Seconds by phase",
        "Participation",
        "Settings",
    )
    for text in (*wanted, "fedadam", '["int8", "ans"]', "kitchen-pi-0", "deadline passed <b>"):
        assert text in shown
    # 0.9 − 0.8 · 0.85¹² = 0.786
    assert "78.6 %" in shown


def test_nothing_a_client_sends_becomes_markup_or_leaves_the_page() -> None:
    poisoned = [
        row
        | {"clients": {HOSTILE: {"bytes_up": 5}}, "dropped": {HOSTILE: HOSTILE}, "seconds": {HOSTILE: 1.0}}
        for row in rows(3)
    ]
    record = {
        "settings": {HOSTILE: HOSTILE},
        "versions": {HOSTILE: HOSTILE},
        "started": HOSTILE,
        "commit": HOSTILE,
    }
    record |= {
        "platform": HOSTILE,
        "python": HOSTILE,
        "resumed": [{"started": HOSTILE, "changed": {HOSTILE: HOSTILE}}],
    }
    html = render(record, poisoned, name=HOSTILE)
    page = Page(html)
    assert "script" not in page.tags
    assert page.links == page.handlers == []
    assert "\u202e" not in html
    assert "default-src 'none'" in html
    assert not re.search(r"https?://|url\(|@import", html)


def test_a_simulated_fleet_has_its_time_energy_and_losses(tmp_path: Path) -> None:
    """12 rounds of half an hour, 2 Wh, 1 MB down; lost 36 late, 12 broke off, 12 left, 24 unfit: 84."""
    html = render({}, rows(12, fleet=True), name="run")
    page = Page(html)
    assert page.tags.count("figure") == 7 + 4
    shown = " ".join(page.texts)
    for text in ("6 h 00 min", "1 h 00 min of it waiting", "24 Wh", "12 MB", "2.4 MB", "virtual hours"):
        assert text in shown
    assert "36 late; 12 broke off; 12 left; 24 too little memory" in shown
    assert "not there" not in shown
    words = " ".join(shown.split())
    assert "kind asked counted share" in words
    assert "96 24 25.0 % pi4 60 60 100.0 %" in words
    assert "virtual" not in " ".join(Page(render({}, rows(12), name="run")).texts)


def test_hours_have_parts_and_rounds_have_none() -> None:
    parts = line_chart("t", [Series("s", [(0.1, 1.0), (0.9, 2.0)])], x_name="virtual hours")
    whole = line_chart("t", [Series("s", [(1, 1.0), (3, 2.0)])], x_name="round")
    marks = [re.findall(r'text-anchor="middle" x="[\d.]+" y="228">([\d.]+)<', svg) for svg in (parts, whole)]
    assert marks == [["0.2", "0.4", "0.6", "0.8"], ["1", "2", "3"]]


@pytest.mark.parametrize("key", sorted(rows(1, fleet=True)[0]))
def test_a_missing_or_odd_value_leaves_a_curve_out_and_never_raises(key: str) -> None:
    whole = rows(4, fleet=True)
    for odd in (None, "x", -1, [], {}, {"a": "b"}, {"a": {"bytes_up": "many"}}, True, 10**400):
        Page(render({}, [row | {key: odd} for row in whole], name="run"))
    Page(render({}, [{k: v for k, v in row.items() if k != key} for row in whole], name="run"))


@pytest.mark.parametrize("key", sorted(on_a_clock(1)))
def test_an_odd_value_of_the_fleet_never_raises(key: str) -> None:
    odds: list[object] = [None, "x", -1, [], {}, True, 10**400, 1e299]
    for odd in odds:
        fleets = [on_a_clock(number) | {key: odd} for number in range(1, 5)]
        Page(
            render({}, [{"round": i, "accuracy": 0.5, "fleet": f} for i, f in enumerate(fleets)], name="run")
        )


@pytest.mark.parametrize("some", [[], [{}], [{"round": 1}], rows(1), [{"round": 1, "accuracy": 0.5}] * 2])
def test_a_run_that_has_just_begun_has_a_report(some: list[dict[str, object]]) -> None:
    Page(render({"settings": {}}, some, name="run"))


def test_a_long_run_of_many_clients_stays_a_small_page() -> None:
    html = render({}, rows(400, 200), name="run")
    Page(html)
    assert len(html) < 600_000
    assert "40 of 200 clients" in html


def test_a_line_is_drawn_where_its_values_are() -> None:
    svg = line_chart("t", [Series("s", [(0, 0.0), (5, 50.0), (10, 100.0)])], x_name="round")
    points = re.search(r'points="([^"]+)"', svg)
    assert points
    (x0, y0), (x1, y1), (x2, y2) = [tuple(map(float, pair.split(","))) for pair in points[1].split()]
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.2)
    assert y0 > y2  # SVG's y axis points down
    logged = line_chart(
        "t", [Series("s", [(0, 1.0), (5, 10.0), (10, 100.0), (11, 0.0)])], x_name="round", log=True
    )
    found = re.search(r'points="([^"]+)"', logged)
    assert found
    heights = [float(pair.split(",")[1]) for pair in found[1].split()]
    assert len(heights) == 3
    assert heights[0] - heights[1] == pytest.approx(heights[1] - heights[2], abs=0.2)


def test_accuracy_has_no_room_above_one_hundred_percent() -> None:
    html = render({}, [{"round": n, "accuracy": 1.0} for n in (1, 2)], name="run")
    shown = [float(text) for text in re.findall(r">([\d.]+) %<", html)]
    assert shown
    assert max(shown) == 100


def test_stacked_bars_stand_on_each_other() -> None:
    svg = bar_chart("t", ["1"], [("a", [3.0], 0), ("b", [1.0], 1)], x_name="round")
    bars = re.findall(r'class="fill c\d" x="[\d.]+" y="([\d.]+)" width="[\d.]+" height="([\d.]+)"', svg)
    (y_a, height_a), (y_b, height_b) = [(float(y), float(h)) for y, h in bars]
    assert y_b + height_b == pytest.approx(y_a, abs=0.2)
    assert height_a == pytest.approx(3 * height_b, abs=0.4)


def test_empty_plots_are_empty_text() -> None:
    assert line_chart("t", [Series("s", [])], x_name="round") == ""
    assert line_chart("t", [Series("s", [(1, -1.0)])], x_name="round", log=True) == ""
    assert bar_chart("t", [], [], x_name="round") == ""
    assert cell_grid("t", [], [], [], [], x_name="round") == ""


def test_printable_hides_nothing() -> None:
    assert printable("pi\x00\x1b[31m\u202egnp") == "pi��[31m�gnp"
    assert printable("x" * 100) == "x" * 63 + "…"
