"""Files that survive a power cut: JSON lines that only grow, and files that change at once or not at all.

A line counts when its newline is on the disk. What a power cut tore off the end is cut away on opening; a bad
line anywhere else is damage, and is said.
"""

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fedlite.errors import StateError, StorageError


class JsonLines:
    """One JSON object per line, appended durably."""

    def __init__(self, path: Path) -> None:
        """Open `path`; the first append makes it. Raises StateError if a line before the last is damaged."""
        self.path = path
        if path.exists():
            _cut_torn_tail(path)

    def append(self, row: Mapping[str, Any]) -> None:
        """Add one line; when this returns, it is on the disk. Raises StorageError."""
        self.extend([row])

    def extend(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add some lines with one wait for the disk."""
        new = not self.path.exists()
        try:
            with self.path.open("ab") as file:
                file.write(b"".join(map(_line, rows)))
                file.flush()
                os.fsync(file.fileno())
            if new:
                _sync_folder(self.path.parent)
        except OSError as error:
            raise StorageError(f"cannot write {self.path}: {error.strerror}") from error

    def read(self) -> list[dict[str, Any]]:
        """All lines, in file order."""
        if not self.path.exists():
            return []
        rows, _ = _parse(self.path, self.path.read_bytes())
        return rows

    def replace(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Exchange the whole file at once. Raises StorageError."""
        write_whole(self.path, b"".join(map(_line, rows)))


def write_whole(path: Path, data: bytes) -> None:
    """Write, wait for the disk, rename: a reader sees the old file or the new one. Raises StorageError."""
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from error


def plain(value: Any) -> Any:
    """`value` as JSON can hold it: NumPy as numbers, NaN and infinity as null, the rest as text."""
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(each) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def _line(row: Mapping[str, Any]) -> bytes:
    return json.dumps(plain(row), separators=(",", ":"), allow_nan=False).encode() + b"\n"


def _parse(path: Path, data: bytes) -> tuple[list[dict[str, Any]], int]:
    """(the rows, how many bytes of `data` are whole lines)."""
    rows: list[dict[str, Any]] = []
    end = 0
    lines = data.split(b"\n")
    for number, line in enumerate(lines[:-1], start=1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            if number == len(lines) - 1 and not lines[-1]:
                break
            raise StateError(f"line {number} of {path} is damaged", remedy=f"repair or remove {path.name}")
        rows.append(row)
        end += len(line) + 1
    return rows, end


def _cut_torn_tail(path: Path) -> None:
    data = path.read_bytes()
    _, whole = _parse(path, data)
    if whole < len(data):
        os.truncate(path, whole)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
