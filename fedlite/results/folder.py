"""What a run leaves behind: config.json (how it was made), metrics.jsonl (one row per round), report.html.

A row may hold: round, loss, accuracy, accuracy_int8, train_loss, prequential, num_clients, uplink_ratio,
clients {id: {bytes_up, bytes_down, wire_up, wire_down, num_examples, seconds}}, wire_up and wire_down of all clients
together, dropped {id: reason}, seconds {phase: s}, and fleet, a simulated fleet's virtual figures: see
fedlite.virtual.schedule.fleet_row. bytes_* are payloads, wire_* what went over the wire, docs/accounting.md.
Any of them may be missing: there is then no curve for it.
"""

import json
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from fedlite.errors import StateError, StorageError
from fedlite.results.lines import JsonLines, plain, write_whole
from fedlite.results.report import render

FORMAT = 1
ROWS_FILE = "metrics.jsonl"
PACKAGES = ("fedlite", "flwr", "torch", "numpy")


class RunFolder:
    """The folder of one run; one process writes it at a time."""

    def __init__(self, path: Path, config: Mapping[str, Any], *, resume: bool = False) -> None:
        """Open or make the folder and write config.json.

        A run of the same settings begins anew: the earlier rows are kept as metrics.jsonl.old. With `resume`
        the rows go on, and config.json lists what changed. Raises StateError if the folder is damaged, or
        holds a run of other settings and `resume` is off; StorageError if the disk refuses.
        """
        self.path = path
        settings = plain(config)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot make {path}: {error.strerror}") from error
        earlier = read_config(path) if (path / "config.json").exists() else None
        if earlier is None:
            record = _provenance() | {"settings": settings}
        elif resume:
            record = _resumed(earlier, settings)
        else:
            _check_same(path, earlier.get("settings"), settings)
            record = _provenance() | {"settings": settings}
        rows = path / ROWS_FILE
        if not resume and rows.exists():
            rows.replace(path / "metrics.jsonl.old")
        write_whole(path / "config.json", (json.dumps(record, indent=2) + "\n").encode())
        self._lines = JsonLines(rows)
        self._rounds = {row.get("round") for row in self._lines.read()}

    def append(self, row: Mapping[str, Any]) -> None:
        """Keep one round's row, durably; a row of a round that is already there takes its place."""
        fresh = plain(row)
        number = fresh.get("round")
        if number is None or number not in self._rounds:
            self._lines.append(fresh)
            self._rounds.add(number)
        else:
            self._lines.replace(fresh if old.get("round") == number else old for old in self._lines.read())

    def rows(self) -> list[dict[str, Any]]:
        """One row per round, in the order they came."""
        return self._lines.read()

    def write_report(self) -> Path:
        """Make report.html, one file that needs nothing else, and return where it is."""
        return write_report(self.path)


def read_config(path: Path) -> dict[str, Any]:
    """What config.json of a run's folder holds. Raises StateError if it is missing or not ours."""
    try:
        found = json.loads((path / "config.json").read_text("utf-8"))
    except OSError as error:
        raise StateError(f"cannot read {path / 'config.json'}: {error.strerror}") from error
    except ValueError as error:
        raise StateError(f"{path / 'config.json'} is damaged: {error}") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise StateError(f"{path / 'config.json'} is not a record of format {FORMAT}")
    return found


def write_report(path: Path) -> Path:
    """Make report.html for a run's folder, finished or not. Raises StateError or StorageError."""
    html = render(read_config(path), JsonLines(path / ROWS_FILE).read(), name=path.resolve().name)
    write_whole(path / "report.html", html.encode())
    return path / "report.html"


def _provenance() -> dict[str, Any]:
    return {
        "format": FORMAT,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {name: _version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "commit": _commit(),
    }


def _resumed(earlier: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """The earlier record with the settings now in force, and one more line about what changed since."""
    now = _provenance()
    before = earlier.get("settings", {}) | {
        "commit": earlier.get("commit"),
        "versions": earlier.get("versions"),
    }
    after = settings | {"commit": now["commit"], "versions": now["versions"]}
    changed = {
        key: [before.get(key), after.get(key)]
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    }
    again = [*earlier.get("resumed", []), {"started": now["started"], "changed": changed}]
    return now | {"started": earlier.get("started"), "settings": settings, "resumed": again}


def _check_same(path: Path, before: Any, after: Mapping[str, Any]) -> None:
    if before == after:
        return
    old = before if isinstance(before, dict) else {}
    odd = next(key for key in sorted(old.keys() | after.keys()) if old.get(key) != after.get(key))
    raise StateError(
        f"{path} holds a run with {odd} = {old.get(odd)!r}, this one has {after.get(odd)!r}",
        remedy="give another folder, or resume that run",
    )


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The checkout's commit, with "+" if files differ from it; None for an installed package."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        head = _git(root, "rev-parse", "HEAD")
        return head + ("+" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: Path, *words: str) -> str:
    command = ["git", "-C", str(root), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
