"""How a run looks while it goes: a growing table and the time left on a terminal, a plain line per round elsewhere.

with live(20, "fedadam on digits") as table:
    table.status("waiting for clients 1/3")
    table.add(row)
"""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from fedlite.results.report import printable
from fedlite.results.summary import mapping, number, phases, reports, traffic
from fedlite.results.units import DASH, byte_text, number_text, percent_text, ratio_text, seconds_text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

COLUMNS = (  # name, width; 79 together, so that a line fits the narrowest terminal
    ("round", 6),
    ("clients", 9),
    ("accuracy", 10),
    ("int8", 8),
    ("loss", 9),
    ("up", 9),
    ("down", 9),
    ("ratio", 8),
    ("seconds", 11),
)
WIRE_COLUMNS = (  # where bytes on the wire are known; 79 too
    ("round", 5),
    ("clients", 8),
    ("accuracy", 9),
    ("loss", 8),
    ("up", 8),
    ("wire up", 8),
    ("down", 8),
    ("wire dn", 8),
    ("ratio", 6),
    ("seconds", 11),
)
FLEET_COLUMNS = (  # for a simulated fleet, whose virtual time has a column of its own; 79 too
    ("round", 6),
    ("clients", 8),
    ("accuracy", 9),
    ("loss", 8),
    ("up", 9),
    ("down", 9),
    ("ratio", 7),
    ("seconds", 11),
    ("clock", 12),
)


class LiveTable(Protocol):
    """Where a run shows its progress."""

    def note(self, text: str) -> None:
        """A line that stays: something the reader should know."""

    def status(self, text: str) -> None:
        """What is being waited for now; the next status takes its place."""

    def add(self, row: Mapping[str, Any]) -> None:
        """A finished round, as in metrics.jsonl; a missing key shows as a dash."""


@contextmanager
def live(
    total_rounds: int, title: str, *, done: int = 0, stream: TextIO | None = None
) -> Iterator[LiveTable]:
    """Show a run of `total_rounds` rounds, `done` of them before a resume, on `stream` (standard output)."""
    out = stream or sys.stdout
    if not out.isatty():
        yield _Plain(total_rounds, title, out)
        return
    from rich.console import Console

    console = Console(file=out, highlight=False, markup=False, emoji=False)
    progress = _progress(console)
    with progress:
        yield _Terminal(progress, progress.add_task("", total=total_rounds, completed=done, status=""), title)


class _Plain:
    """For pipes, logs and CI: notes, rounds with the time left, and each kind of status once before the first round."""

    def __init__(self, total_rounds: int, title: str, out: TextIO) -> None:
        self._total, self._out, self._status, self._rounds = total_rounds, out, "", 0
        self._began = time.monotonic()
        self.note(title)

    def note(self, text: str) -> None:
        self._print(_one_line(text))

    def status(self, text: str) -> None:
        words = "".join(each for each in text if not each.isdigit())
        if not self._rounds and words != self._status:
            self.note(text)
        self._status = words

    def add(self, row: Mapping[str, Any]) -> None:
        self._rounds += 1
        words = _cells(row)
        words["round"] += f"/{self._total}"
        ahead = self._total - (number(row, "round") or self._total)
        if ahead > 0:
            words["left"] = seconds_text(ahead * (time.monotonic() - self._began) / self._rounds)
        self._print("  ".join(f"{name} {text}" for name, text in words.items() if text != DASH))

    def _print(self, text: str) -> None:
        print(text, file=self._out, flush=True)


class _Terminal:
    """Rounds scroll up as a table; the last line is the progress bar, the time left and the status."""

    def __init__(self, progress: "Progress", task: "TaskID", title: str) -> None:
        self._progress, self._task, self._rounds = progress, task, 0
        self._columns: tuple[tuple[str, int], ...] = COLUMNS
        self._print(_one_line(title), "bold")

    def note(self, text: str) -> None:
        self._print(_one_line(text), "yellow")

    def status(self, text: str) -> None:
        self._progress.update(self._task, status=_one_line(text))

    def add(self, row: Mapping[str, Any]) -> None:
        if not self._rounds:
            self._columns = _columns(row)
            self._print("".join(f"{name:>{width}}" for name, width in self._columns), "dim")
        self._rounds += 1
        cells = _cells(row)
        self._print("".join(f"{cells[name]:>{width}}" for name, width in self._columns), "")
        finished = number(row, "round")
        self._progress.update(self._task, completed=finished) if finished else self._progress.advance(
            self._task
        )

    def _print(self, text: str, style: str) -> None:
        from rich.text import Text

        self._progress.console.print(Text(text, style=style, no_wrap=True, overflow="ellipsis"))


def _progress(console: "Console") -> "Progress":
    """A bar whose time left counts rounds of the last hour, so that slow rounds have one too."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.progress import TimeRemainingColumn as Left

    columns = [BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), Left()]
    status = TextColumn("{task.fields[status]}", style="dim", markup=False)
    return Progress(*columns, status, console=console, speed_estimate_period=3600, expand=False)


def _columns(row: Mapping[str, Any]) -> tuple[tuple[str, int], ...]:
    """Those that have something to show, going by the first row."""
    known = number(row, "wire_up") is not None and number(row, "wire_down") is not None
    columns = FLEET_COLUMNS if mapping(row, "fleet") else WIRE_COLUMNS if known else COLUMNS
    if number(row, "deviations") is None:
        return columns
    return tuple(("step", width) if name == "loss" else (name, width) for name, width in columns)


def _cells(row: Mapping[str, Any]) -> dict[str, str]:
    """The row's numbers as text, by column."""
    clients, seconds = number(row, "num_clients"), phases(row)
    up, down = traffic(row, "bytes_up"), traffic(row, "bytes_down")
    return {
        "round": number_text(number(row, "round")),
        "clients": f"{len(reports(row)) if clients is None else clients:g}",
        "accuracy": percent_text(number(row, "accuracy")),
        "int8": percent_text(number(row, "accuracy_int8")),
        "loss": number_text(number(row, "loss")),
        "step": number_text(number(row, "deviations")),
        "up": byte_text(up) if up else DASH,
        "wire up": byte_text(number(row, "wire_up")),
        "down": byte_text(down) if down else DASH,
        "wire dn": byte_text(number(row, "wire_down")),
        "ratio": ratio_text(number(row, "uplink_ratio")),
        "seconds": seconds_text(sum(seconds.values())) if seconds else DASH,
        "clients/s": _rate(row, clients, sum(seconds.values())),
        "clock": seconds_text(number(mapping(row, "fleet"), "now")),
    }


def _rate(row: Mapping[str, Any], clients: float | None, seconds: float) -> str:
    """Of a simulated round; over a link it would say how fast devices are, and not this machine."""
    return number_text(clients / seconds) if "engine" in row and clients and seconds else DASH


def _one_line(text: str) -> str:
    return printable(" ".join(text.split()), 400)
