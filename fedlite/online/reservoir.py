"""A bounded sample of a stream, on disk: after n arrivals each of them is in it with probability capacity / n.

Vitter 1985, "Random sampling with a reservoir", ACM TOMS 11(1), Algorithm R. The draw for arrival number k is a
hash of (seed, k), so that the counter is all there is to remember: a restart or another batching changes nothing.
One SQLite file (WAL, synchronous=FULL): what `add` returned from is there after a power cut, a torn `add` is not.
"""

import json
import math
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlite.errors import DataError, SettingsError, StateError, StorageError
from fedlite.results.lines import sync_folder
from fedlite.seeds import derive, generator

FORMAT = 1
APPLICATION = 0x464C5256  # "FLRV"
SETTINGS = (  # the log is folded in after 1 MiB (256 pages) and cut back to that
    "journal_mode = WAL",
    "synchronous = FULL",
    "wal_autocheckpoint = 256",
    f"journal_size_limit = {2**20}",
)
DTYPES = ("float32", "int64", "uint8")
REFUSED = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN}
SCHEMA = """
CREATE TABLE about (form TEXT NOT NULL, seen INTEGER NOT NULL);
CREATE TABLE sample (slot INTEGER PRIMARY KEY, x BLOB NOT NULL, y INTEGER NOT NULL);
"""


def places(seed: int, seen: int, count: int, capacity: int) -> dict[int, int]:
    """slot → which of `count` arrivals ends up in it, when `seen` came before them. (Vitter 1985, Algorithm R)"""
    last: dict[int, int] = {}
    for index in range(count):
        number = seen + index
        slot = number if number < capacity else derive(seed, "reservoir", number) % (number + 1)
        if slot < capacity:
            last[slot] = index
    return last


class Reservoir:
    """At most `capacity` labelled samples of one shape. Safe to use from several threads of one process."""

    def __init__(
        self,
        path: Path,
        capacity: int,
        input_shape: Sequence[int],
        num_classes: int,
        seed: int,
        *,
        dtype: str = "float32",
    ) -> None:
        """Open or make the file at `path`; `input_shape` is of one sample, `dtype` float32, int64 or uint8.

        Raises StateError if the file holds samples of another form, or is none of ours; SettingsError if the
        form makes no sense; StorageError if the disk refuses.
        """
        if capacity < 1 or num_classes < 1 or dtype not in DTYPES:
            raise SettingsError(
                f"a reservoir of {capacity} samples, {num_classes} classes, {dtype} cannot be made"
            )
        self.path, self.capacity, self.num_classes = path, capacity, num_classes
        self.input_shape, self.dtype, self._seed = tuple(input_shape), np.dtype(dtype), seed
        self._lock = threading.Lock()
        self._form = {
            "capacity": capacity,
            "input_shape": list(self.input_shape),
            "num_classes": num_classes,
            "seed": seed,
            "dtype": dtype,
        }
        with _errors(path):
            self._database = _open(path, self._form)

    @property
    def seen(self) -> int:
        """How many samples ever arrived."""
        return int(self._rows("SELECT seen FROM about")[0][0])

    def __len__(self) -> int:
        return min(self.seen, self.capacity)

    def add(self, x: NDArray[Any], y: NDArray[Any]) -> None:
        """Offer samples, x (n, *input_shape) and y (n,); when this returns, their fate is on the disk.

        Raises DataError if they are not of the reservoir's form (none is then taken), StorageError if the disk
        refuses (likewise).
        """
        x, y = self._checked(x, y)
        with self._lock, _errors(self.path), _transaction(self._database) as database:
            seen = int(database.execute("SELECT seen FROM about").fetchone()[0])
            chosen = places(self._seed, seen, len(y), self.capacity)
            rows = [(slot, x[index].tobytes(), int(y[index])) for slot, index in sorted(chosen.items())]
            database.executemany("INSERT OR REPLACE INTO sample VALUES (?, ?, ?)", rows)
            database.execute("UPDATE about SET seen = ?", (seen + len(y),))

    def all(self) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Every sample held, x (len, *input_shape) and y (len,), in slot order."""
        return self._arrays(self._rows("SELECT x, y FROM sample ORDER BY slot"))

    def sample(self, count: int, seed: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """`count` different samples in random order, fewer if fewer are held; the same seed draws the same."""
        slots = generator(seed, "reservoir", "sample").permutation(len(self))[:count]
        rows = [self._rows("SELECT x, y FROM sample WHERE slot = ?", int(slot)) for slot in slots]
        return self._arrays([row for found in rows for row in found])

    def close(self) -> None:
        """Fold the log into the file and let go of it."""
        with self._lock:
            self._database.close()

    def __enter__(self) -> "Reservoir":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _rows(self, query: str, *values: int) -> list[Any]:
        with self._lock, _errors(self.path):
            return self._database.execute(query, values).fetchall()

    def _checked(self, x: NDArray[Any], y: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        if x.shape != (len(y), *self.input_shape) or y.ndim != 1:
            raise DataError(
                f"samples are {x.shape}, labels {y.shape}; (n, *{self.input_shape}) and (n,) wanted"
            )
        if not np.can_cast(x.dtype, self.dtype, "same_kind") or y.dtype.kind not in "iu":
            raise DataError(f"samples are {x.dtype}, labels {y.dtype}; {self.dtype} and integers wanted")
        if len(y) and not 0 <= int(y.min()) <= int(y.max()) < self.num_classes:
            raise DataError(
                f"labels run from {y.min()} to {y.max()}, classes from 0 to {self.num_classes - 1}"
            )
        with np.errstate(over="ignore"):
            x = np.ascontiguousarray(x, dtype=self.dtype)
        if x.dtype.kind == "f" and not np.isfinite(x).all():
            raise DataError(f"a sample holds a value that is not a finite {self.dtype}")
        return x, y

    def _arrays(self, rows: Sequence[tuple[bytes, int]]) -> tuple[NDArray[Any], NDArray[np.int64]]:
        want = math.prod(self.input_shape) * self.dtype.itemsize
        if odd := next((len(blob) for blob, _ in rows if len(blob) != want), None):
            raise StateError(f"{self.path} holds a sample of {odd} bytes, {want} wanted")
        x = np.frombuffer(b"".join(blob for blob, _ in rows), dtype=self.dtype)
        y = np.array([label for _, label in rows], dtype=np.int64)
        return x.reshape(len(rows), *self.input_shape).copy(), y


def _open(path: Path, form: dict[str, Any]) -> sqlite3.Connection:
    """Connect, make the tables if the file is new, and compare its form with ours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # samples are private; SQLite keeps the mode
    sync_folder(path.parent)
    database = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
    try:
        for setting in SETTINGS:
            database.execute(f"PRAGMA {setting}").fetchall()
        with _transaction(database):
            kind, version, tables = (
                database.execute(query).fetchone()[0]
                for query in (
                    "PRAGMA application_id",
                    "PRAGMA user_version",
                    "SELECT count(*) FROM sqlite_master",
                )
            )
            if not tables:
                _create(database, form)
            elif (kind, version) != (APPLICATION, FORMAT):
                raise StateError(f"{path} is not a reservoir of format {FORMAT}")
        _compare(path, json.loads(database.execute("SELECT form FROM about").fetchone()[0]), form)
    except BaseException:
        database.close()
        raise
    return database


def _create(database: sqlite3.Connection, form: dict[str, Any]) -> None:
    for statement in SCHEMA.split(";"):
        database.execute(statement)
    database.execute("INSERT INTO about VALUES (?, 0)", (json.dumps(form),))
    database.execute(f"PRAGMA application_id = {APPLICATION}")
    database.execute(f"PRAGMA user_version = {FORMAT}")


def _compare(path: Path, stored: dict[str, Any], form: dict[str, Any]) -> None:
    for key, value in form.items():
        if stored.get(key) != value:
            raise StateError(f"{path} was made with {key} = {stored.get(key)}, now {value} is asked for")


@contextmanager
def _transaction(database: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """All or nothing; SQLite may have rolled back by itself when the disk is full, and that must not hide why."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield database
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"cannot use {path}: {error.strerror}") from error
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in REFUSED:
            raise StorageError(f"cannot use {path}: {error}") from error
        raise StateError(f"{path} is damaged, or in use by another process: {error}") from error
