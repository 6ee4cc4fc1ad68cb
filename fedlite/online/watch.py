"""New files of samples in a directory, by plain polling: complete ones are read once, bad ones are named.

No file is moved or deleted: what was dealt with is remembered by name, size and time of change, in a small file
that survives a power cut. A file that changes later counts as a new one.
"""

import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedlite.errors import DataError, StateError
from fedlite.results.lines import JsonLines

Reader = Callable[[Path], tuple[NDArray[Any], NDArray[np.int64]]]

LEDGER = ".fedlite-seen.jsonl"
UNFINISHED = (".part", ".partial", ".tmp", ".crdownload", ".swp", "~")
MOST_FILES = 32
MOST_LINES = 20_000


class Arrival(NamedTuple):
    """The samples of one file: x (n, *shape), y (n,)."""

    path: Path
    x: NDArray[Any]
    y: NDArray[np.int64]


@dataclass(frozen=True, order=True)
class _File:
    """A file as it stood when looked at; sorted, the oldest comes first."""

    mtime_ns: int
    name: str
    size: int


class Watcher:
    """Looks at one directory, not at those inside it. Call `poll` from time to time, from one thread."""

    def __init__(self, directory: Path, reader: Reader, *, ledger: Path | None = None) -> None:
        """`reader` raises DataError for a file it cannot use; `ledger` is where finished files are remembered.

        The ledger is DIRECTORY/.fedlite-seen.jsonl unless given: give one if the directory cannot be written to.
        Raises DataError if there is no such directory, StateError if the ledger is damaged.
        """
        if not directory.is_dir():
            raise DataError(f"there is no folder {directory} to watch")
        self._directory, self._reader = directory, reader
        self._lines = JsonLines(ledger or directory / LEDGER)
        rows = self._lines.read()
        self._done = {_file(row, self._lines.path) for row in rows}
        self._rejected = {row["name"]: str(row["reason"]) for row in rows if "reason" in row}
        self._before: set[_File] = set()
        self._handed: list[_File] = []

    @property
    def rejected(self) -> dict[str, str]:
        """Name → why, of the files that could not be used as they stand."""
        return dict(self._rejected)

    def poll(self, limit: int = MOST_FILES) -> list[Arrival]:
        """Files that are new and complete, oldest first, at most `limit` at a time.

        Complete means: not hidden, not named like an unfinished download, and of the same size and time in two
        polls in a row, so a file is read at the second poll that sees it, whether it was written in place or
        renamed in. Calling again says that the last ones were dealt with: after a power cut in between they
        come once more. Raises StorageError if the disk refuses to remember.
        """
        self.done()
        now = self._look()
        ready = sorted((now & self._before) - self._done)[:limit]
        self._before = now
        arrivals = []
        for file in ready:
            if (arrival := self._read(file)) is not None:
                arrivals.append(arrival)
                self._handed.append(file)
        return arrivals

    def done(self) -> None:
        """Remember that the files of the last poll were dealt with; the next poll does it too."""
        if self._handed:
            self._remember([_row(file) for file in self._handed])
            for file in self._handed:
                self._rejected.pop(file.name, None)
            self._done |= set(self._handed)
            self._handed = []

    def _look(self) -> set[_File]:
        """The plain files there now; none if the directory is away, as a stick that was pulled out."""
        found = set()
        try:
            paths = list(self._directory.iterdir())
        except OSError:
            return set()
        for path in paths:
            if path.name.startswith(".") or path.name.endswith(UNFINISHED):
                continue
            try:
                status = path.lstat()
            except OSError:
                continue
            if stat.S_ISREG(status.st_mode):
                found.add(_File(status.st_mtime_ns, path.name, status.st_size))
        return found

    def _read(self, file: _File) -> Arrival | None:
        """The file's samples; None if it went away, or was refused and remembered as such."""
        path = self._directory / file.name
        try:
            return Arrival(path, *self._reader(path))
        except FileNotFoundError:
            return None
        except Exception as error:
            # whatever a stranger's file does to its reader, the next file must still be read
            reason = str(error) if isinstance(error, DataError) else f"{type(error).__name__}: {error}"
            self._remember([_row(file) | {"reason": reason}])
            self._rejected[file.name] = reason
            self._done.add(file)
            return None

    def _remember(self, rows: Sequence[dict[str, Any]]) -> None:
        """Append; once the ledger is long, keep only the files that are still there."""
        self._lines.extend(rows)
        if not self._before or len(self._done) < max(MOST_LINES, 2 * len(self._before)):
            return
        rows = [row for row in self._lines.read() if _file(row, self._lines.path) in self._before]
        self._lines.replace(rows)
        self._done = {_file(row, self._lines.path) for row in rows}


def _file(row: dict[str, Any], ledger: Path) -> _File:
    match row:
        case {"mtime_ns": int(mtime_ns), "name": str(name), "size": int(size)}:
            return _File(mtime_ns, name, size)
    raise StateError(f"{ledger} holds a line that names no file", remedy=f"remove {ledger.name}")


def _row(file: _File) -> dict[str, Any]:
    return {"name": file.name, "size": file.size, "mtime_ns": file.mtime_ns}
