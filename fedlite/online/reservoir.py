"""A bounded sample of a stream, on disk: after n arrivals each of them is in it with probability capacity / n.

Vitter 1985, "Random sampling with a reservoir", ACM TOMS 11(1), Algorithm R. The draw for arrival number k is a
hash of (seed, k), so that the counter is all there is to remember: a restart or another batching changes nothing.
One SQLite file (WAL, synchronous=FULL): what `add` returned from is there after a power cut, a torn `add` is not.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlite.errors import DataError, SettingsError, StateError
from fedlite.ledger._sqlite import Closing, Database, Form
from fedlite.seeds import derive, generator

DTYPES = ("float32", "int64", "uint8")
LOG_PAGES = 256  # the write-ahead file is folded in after 1 MiB
FORM = Form(
    what="reservoir",
    mark=0x464C5256,  # "FLRV"
    version=1,
    schema=(
        "CREATE TABLE about (form TEXT NOT NULL, seen INTEGER NOT NULL)",
        "CREATE TABLE sample (slot INTEGER PRIMARY KEY, x BLOB NOT NULL, y INTEGER NOT NULL)",
    ),
)


def places(seed: int, seen: int, count: int, capacity: int) -> dict[int, int]:
    """slot → which of `count` arrivals ends up in it, when `seen` came before them. (Vitter 1985, Algorithm R)"""
    last: dict[int, int] = {}
    for index in range(count):
        number = seen + index
        slot = number if number < capacity else derive(seed, "reservoir", number) % (number + 1)
        if slot < capacity:
            last[slot] = index
    return last


class Reservoir(Closing):
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
        form = {
            "capacity": capacity,
            "input_shape": list(self.input_shape),
            "num_classes": num_classes,
            "seed": seed,
            "dtype": dtype,
        }
        self._database = Database(path, FORM)
        try:
            self._settle(form)
        except BaseException:
            self.close()
            raise

    @property
    def seen(self) -> int:
        """How many samples ever arrived."""
        return int(self._database.rows("SELECT seen FROM about")[0][0])

    def __len__(self) -> int:
        return min(self.seen, self.capacity)

    def add(self, x: NDArray[Any], y: NDArray[Any]) -> None:
        """Offer samples, x (n, *input_shape) and y (n,); when this returns, their fate is on the disk.

        Raises DataError if they are not of the reservoir's form (none is then taken), StorageError if the disk
        refuses (likewise).
        """
        x, y = self._checked(x, y)
        with self._database.transaction() as database:
            seen = int(database.execute("SELECT seen FROM about").fetchone()[0])
            chosen = places(self._seed, seen, len(y), self.capacity)
            rows = [(slot, x[index].tobytes(), int(y[index])) for slot, index in sorted(chosen.items())]
            database.executemany("INSERT OR REPLACE INTO sample VALUES (?, ?, ?)", rows)
            database.execute("UPDATE about SET seen = ?", (seen + len(y),))

    def all(self) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Every sample held, x (len, *input_shape) and y (len,), in slot order."""
        return self._arrays(self._database.rows("SELECT x, y FROM sample ORDER BY slot"))

    def sample(self, count: int, seed: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """`count` different samples in random order, fewer if fewer are held; the same seed draws the same."""
        slots = generator(seed, "reservoir", "sample").permutation(len(self))[:count]
        rows = [self._database.rows("SELECT x, y FROM sample WHERE slot = ?", int(slot)) for slot in slots]
        return self._arrays([row for found in rows for row in found])

    def _settle(self, form: dict[str, Any]) -> None:
        """Write the form into a new file; otherwise it must be the stored one."""
        self._database.rows(f"PRAGMA wal_autocheckpoint = {LOG_PAGES}")
        with self._database.transaction() as database:
            found = database.execute("SELECT form FROM about").fetchone()
            if found is None:
                database.execute("INSERT INTO about VALUES (?, 0)", (json.dumps(form),))
                return
        stored = json.loads(found[0])
        for key, value in form.items():
            if stored.get(key) != value:
                raise StateError(f"{self.path} was made with {key} = {stored.get(key)}, not {value}")

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
