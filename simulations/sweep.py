"""A sweep: every combination of the settings it varies, each a simulation in a process of its own, then one table.

A point lies in a folder named after its settings. One that is finished is not run again, one that was interrupted
resumes; so the same command after Ctrl-C or a power cut does only what is left.
"""

import hashlib
import itertools
import json
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from threading import Event
from typing import Any

from fedlite.config import from_mapping
from fedlite.errors import SettingsError
from fedlite.results.lines import JsonLines, write_whole
from fedlite.results.plots import Series, line_chart
from fedlite.results.report import page
from fedlite.results.summary import FleetTotal, summarize
from simulations.config import Config

Values = Mapping[str, Any]

MEASURES = ("accuracy", "accuracy_int8", "loss", "bytes_up", "bytes_down")
FLEET_MEASURES: Mapping[str, Callable[[FleetTotal], float]] = {  # where there is a virtual clock
    "virtual_seconds": lambda fleet: fleet.seconds,
    "watt_hours": lambda fleet: fleet.watt_hours,
    "lost": lambda fleet: float(sum(fleet.lost.values())),
}


@dataclass(frozen=True)
class Point:
    """One simulation of a sweep: all its settings, those that vary, and where its results go."""

    settings: Values
    varied: Values
    folder: Path

    @property
    def name(self) -> str:
        """The varied settings, as text."""
        return ", ".join(f"{key}={value}" for key, value in self.varied.items())

    def rows(self) -> list[dict[str, Any]]:
        """The rounds done so far."""
        path = self.folder / "metrics.jsonl"
        return [dict(row) for row in JsonLines(path).read()] if path.exists() else []

    @property
    def done(self) -> bool:
        """Whether all its rounds are there, and its model."""
        rounds = Config(**from_mapping(Config, self.settings, source="the sweep")).rounds
        return len(self.rows()) >= rounds and (self.folder / "summary.json").exists()


def points(settings: Values, sweep: Mapping[str, Sequence[Any]], folder: Path) -> list[Point]:
    """Every combination, checked before any is run. SettingsError for a setting that is not one."""
    if "app" in {*settings, *sweep}:
        raise SettingsError("a sweep is of fedlite's own simulations; an app leaves no results to compare")
    found = []
    for values in itertools.product(*sweep.values()):
        varied = dict(zip(sweep, values, strict=True))
        merged = {**settings, **varied}
        Config(**from_mapping(Config, merged, source="the sweep"))
        digest = hashlib.sha256(json.dumps(merged, sort_keys=True, default=str).encode()).hexdigest()[:12]
        found.append(Point(merged, varied, folder / digest))
    return found


def run_sweep(todo: Sequence[Point], *, jobs: int, stop: Event, tell: Callable[[str], None]) -> list[Point]:
    """Run what is not done, `jobs` ≥ 1 at a time, until `stop`; returns the points that failed."""
    if jobs < 1:
        raise SettingsError(f"--jobs is {jobs}, at least 1 wanted")
    waiting = [point for point in todo if not point.done]
    tell(f"{len(todo)} simulations, {len(todo) - len(waiting)} done, {jobs} at a time")
    running: list[tuple[Point, subprocess.Popen[bytes]]] = []
    failed: list[Point] = []
    began, finished, told = time.monotonic(), 0, False
    while (waiting or running) and not (stop.is_set() and not running):
        while waiting and len(running) < jobs and not stop.is_set():
            point = waiting.pop(0)
            running.append((point, _start(point, jobs)))
        if stop.is_set() and not told:
            told = True  # once: a second signal would end them in the midst of a round
            for _, process in running:
                process.terminate()
        for point, process in list(running):
            if process.poll() is None:
                continue
            running.remove((point, process))
            if process.returncode == -signal.SIGTERM and told:
                continue  # it had not begun yet
            if process.returncode:
                failed.append(point)
            elif not stop.is_set():
                finished += 1
                left = (time.monotonic() - began) / finished * (len(waiting) + len(running)) / 60
                accuracy = _final(point, "accuracy")
                shown = "not tested" if accuracy is None else f"accuracy {accuracy:.4f}"
                tell(f"{point.name}: {shown}; about {left:.0f} min left")
        stop.wait(0.2)
    return failed


def _start(point: Point, jobs: int) -> "subprocess.Popen[bytes]":
    """Its process. The cores are divided among the jobs unless --workers says how many each takes.

    It is of a group of its own: a terminal's Ctrl-C is for the sweep, which then tells it to stop.
    """
    point.folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "simulations"]
    shared = {"workers": max(1, Config().cores // jobs)}
    for key, value in (shared | dict(point.settings)).items():
        command += [f"--{key.replace('_', '-')}", str(value)]
    with (point.folder / "log").open("ab") as log:
        return subprocess.Popen(
            [*command, "--run-dir", str(point.folder)], stdout=log, stderr=log, process_group=0
        )


def _final(point: Point, key: str) -> float | None:
    """The last value of a metric."""
    values = [row[key] for row in point.rows() if key in row]
    return values[-1] if values else None


def table(done: Sequence[Point]) -> list[dict[str, Any]]:
    """One line per combination but the seed: mean and spread (sample standard deviation) over seeds."""
    lines = []
    for name, group in _groups(done).items():
        line: dict[str, Any] = {"settings": name, "seeds": len(group)}
        for key in (*MEASURES, *FLEET_MEASURES):
            values = [value for value in (_measure(point, key) for point in group) if value is not None]
            if values:
                line[key] = statistics.fmean(values)
                line[f"{key}_spread"] = statistics.stdev(values) if len(values) > 1 else None
        lines.append(line)
    return lines


def _groups(done: Sequence[Point]) -> dict[str, list[Point]]:
    groups: dict[str, list[Point]] = {}
    for point in done:
        name = ", ".join(f"{k}={v}" for k, v in point.varied.items() if k != "seed") or "all"
        groups.setdefault(name, []).append(point)
    return groups


def _measure(point: Point, key: str) -> float | None:
    if key == "accuracy_int8":
        path = point.folder / "summary.json"
        found = json.loads(path.read_text()).get(key) if path.exists() else None
        return float(found) if found is not None else None
    if key in FLEET_MEASURES:
        fleet = summarize(point.rows()).fleet
        return FLEET_MEASURES[key](fleet) if fleet is not None else None
    if key.startswith("bytes_"):
        return float(sum(client.get(key, 0) for row in point.rows() for client in row["clients"].values()))
    return _final(point, key)


def write(done: Sequence[Point], folder: Path, title: str) -> Path:
    """sweep.json for programs and sweep.html for people; returns the latter."""
    lines = table(done)
    write_whole(folder / "sweep.json", (json.dumps(lines, indent=2) + "\n").encode())
    series = [
        Series(name, _mean_curve(group, "accuracy"), index % 6)
        for index, (name, group) in enumerate(_groups(done).items())
    ]
    chart = line_chart("Test accuracy by round, mean over seeds", series, x_name="round")
    write_whole(
        folder / "sweep.html",
        page(title, [f"<h1>{escape(title)}</h1>", f"<pre>{escape(text_table(lines))}</pre>", chart]).encode(),
    )
    return folder / "sweep.html"


def _mean_curve(group: Sequence[Point], key: str) -> list[tuple[float, float]]:
    by_round: dict[int, list[float]] = {}
    for point in group:
        for row in point.rows():
            if key in row:
                by_round.setdefault(row["round"], []).append(row[key])
    return [(number, statistics.fmean(values)) for number, values in sorted(by_round.items())]


def text_table(lines: Sequence[Mapping[str, Any]]) -> str:
    """For people: a column per metric, mean ± spread."""
    clocked = [key for key in FLEET_MEASURES if any(key in line for line in lines)]
    heads = ["settings", "seeds", *MEASURES, *clocked]
    rows = [heads, *([_cell(line, head) for head in heads] for line in lines)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def _cell(line: Mapping[str, Any], head: str) -> str:
    value, spread = line.get(head), line.get(f"{head}_spread")
    if not isinstance(value, float):
        return str(value) if value is not None else "–"
    form = ".3g" if head.startswith("bytes") or head in FLEET_MEASURES else ".4f"
    return f"{value:{form}}" + (f" ± {spread:{form}}" if spread is not None else "")
