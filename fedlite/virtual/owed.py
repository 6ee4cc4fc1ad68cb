"""What a virtual client keeps between its rounds: which version it holds, and what it still owes the server.

Held in memory up to a limit; beyond it, the rows that were not used for longest lie in a file.
"""

import json
import os
import tempfile
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from fedlite.errors import StateError, StorageError
from fedlite.types import Array

_FORM = "fedlite.owed.3"


@dataclass
class Rows:
    """Client → one row of `width` float32. Holds `limit` bytes of them in memory and the others in `folder`."""

    width: int
    limit: int
    folder: Path
    _near: OrderedDict[int, Array] = field(default_factory=OrderedDict)
    _far: dict[int, int] = field(default_factory=dict)  # client → place in the file
    _free: list[int] = field(default_factory=list)
    _places: int = 0
    _file: IO[bytes] | None = None

    def __contains__(self, client: int) -> bool:
        return client in self._near or client in self._far

    def __len__(self) -> int:
        return len(self._near) + len(self._far)

    def get(self, client: int) -> Array | None:
        """The client's row, to be read before anything is put; None if it has none."""
        if client in self._near:
            self._near.move_to_end(client)
            return self._near[client]
        return self._read(self._far[client]) if client in self._far else None

    def put(self, client: int, row: Array) -> None:
        """Keep a copy of a row; what was there before is gone."""
        if client in self._near:
            np.copyto(self._near[client], row)
            self._near.move_to_end(client)
            return
        self.drop(client)
        self._near[client] = row.copy()
        while len(self._near) * self.width * 4 > self.limit:
            self._spill(*self._near.popitem(last=False))

    def drop(self, client: int) -> None:
        """Forget a client's row, if it has one."""
        self._near.pop(client, None)
        if (place := self._far.pop(client, None)) is not None:
            self._free.append(place)

    def clients(self) -> list[int]:
        """Who has a row, in order of their numbers."""
        return sorted([*self._near, *self._far])

    def close(self) -> None:
        """Forget everything."""
        if self._file is not None:
            self._file.close()
        self._near.clear()
        self._far.clear()

    def _spill(self, client: int, row: Array) -> None:
        with disk():
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self.folder)  # noqa: SIM115  (closed by `close`)
            place = self._place()
            data = np.ascontiguousarray(row).data.cast("B")
            at = place * self.width * 4
            while data:  # a write may be cut short when the disk is nearly full; the next one says so
                written = os.pwrite(self._file.fileno(), data, at)
                data, at = data[written:], at + written
        self._far[client] = place

    def _place(self) -> int:
        if self._free:
            return self._free.pop()
        self._places += 1
        return self._places - 1

    def _read(self, place: int) -> Array:
        assert self._file is not None
        data = os.pread(self._file.fileno(), self.width * 4, place * self.width * 4)
        return np.frombuffer(data, np.float32)


@dataclass
class Owed:
    """What clients owe: `losses` of the codec, and `lost`, a last update that did not arrive, losses included.

    `holds` says which version of the model each client was last known to hold, `counted` in which round its losses
    were made and `missed` in which the update was lost, each the latest last.
    """

    losses: Rows
    lost: Rows
    holds: dict[int, int] = field(default_factory=dict)
    counted: dict[int, int] = field(default_factory=dict)
    missed: dict[int, int] = field(default_factory=dict)

    @classmethod
    def empty(cls, width: int, limit: int, folder: Path) -> "Owed":
        """Nobody owes anything; `limit` is in bytes."""
        return cls(Rows(width, limit // 2, folder), Rows(width, limit // 2, folder))

    def of(self, clients: Sequence[int], since: int = 0) -> Array | None:
        """(clients, width): what each sends on top of its next update; None if nobody owes anything.

        What was made before the round `since` is no longer owed.
        """
        return _stacked([self._owes(client, since) for client in clients], self.losses.width)

    def settle(self, clients: Sequence[int], residual: Array | None, round_num: int = 0) -> None:
        """These clients' reports were counted; `residual` is what the codec left of them."""
        for place, client in enumerate(clients):
            _date(self.counted, client, round_num)
            self.missed.pop(client, None)
            self.lost.drop(client)
            if residual is not None:
                self.losses.put(client, residual[place])

    def lose(
        self,
        clients: Sequence[int],
        updates: Array,
        learned: NDArray[np.bool_],
        round_num: int = 0,
        since: int = 0,
    ) -> None:
        """These clients' reports did not count: they owe their update and what the codec had lost before.

        Of updates that were lost only the last is owed; statistics never are, nor what was lost before `since`.
        """
        for place, client in enumerate(clients):
            _date(self.missed, client, round_num)
            before = self.losses.get(client) if self.counted.get(client, since) >= since else None
            row = np.zeros(self.lost.width, np.float32) if before is None else before.copy()
            row[: len(learned)] = np.where(learned, row[: len(learned)] + updates[place], np.float32(0))
            self.lost.put(client, row)  # what filters remember, behind it, is as it was

    def forget(self, since: int) -> None:
        """Nobody owes any more what was made before that round."""
        for dates, rows in ((self.counted, self.losses), (self.missed, self.lost)):
            for client in list(takewhile(lambda each: dates[each] < since, dates)):  # noqa: B023
                del dates[client]
                rows.drop(client)

    def _owes(self, client: int, since: int) -> Array | None:
        if client in self.missed:
            return self.lost.get(client) if self.missed[client] >= since else None
        return self.losses.get(client) if self.counted.get(client, since) >= since else None

    def close(self) -> None:
        """Forget everything."""
        self.losses.close()
        self.lost.close()

    def save(self, path: Path, round_num: int) -> None:
        """Write everything, whole or not at all, as of this round."""
        partial = path.with_name(path.name + ".part")
        with disk(), partial.open("wb") as file:
            for kind in (self.losses, self.lost):
                clients = kind.clients()
                head = {
                    "form": _FORM,
                    "round": round_num,
                    "width": kind.width,
                    "clients": clients,
                    "holds": list(self.holds.items()) if kind is self.losses else [],
                    "dates": list((self.counted if kind is self.losses else self.missed).items()),
                }
                file.write(json.dumps(head).encode() + b"\n")
                crc = 0
                for client in clients:
                    row = np.ascontiguousarray(kind.get(client)).tobytes()
                    crc = zlib.crc32(row, crc)
                    file.write(row)
                file.write(crc.to_bytes(4, "big"))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)

    def load(self, path: Path, round_num: int) -> bool:
        """Take what was saved as of this round; False if there is none. StateError if it is damaged."""
        if not path.exists():
            return False
        with path.open("rb") as file:
            for kind in (self.losses, self.lost):
                try:
                    head = json.loads(file.readline())
                    form, saved, width = (head[key] for key in ("form", "round", "width"))
                    clients = [int(client) for client in head["clients"]]
                    holds, dates = (
                        {int(client): int(number) for client, number in head[key]}
                        for key in ("holds", "dates")
                    )
                except (ValueError, KeyError, TypeError, RecursionError) as error:
                    raise _damaged(path, "its head cannot be read") from error
                if form != _FORM or width != kind.width:
                    raise _damaged(path, f"it holds {form} of {width} numbers, not of {kind.width}")
                if saved != round_num:
                    return False
                self.holds |= holds
                (self.counted if kind is self.losses else self.missed).update(dates)
                crc = 0
                for client in clients:
                    row = file.read(width * 4)
                    if len(row) != width * 4:
                        raise _damaged(path, "it ends early")
                    crc = zlib.crc32(row, crc)
                    kind.put(client, np.frombuffer(row, np.float32))
                if file.read(4) != crc.to_bytes(4, "big"):
                    raise _damaged(path, "its check value is wrong")
            if file.read(1):
                raise _damaged(path, "it goes on behind its end")
        return True


def _date(dates: dict[int, int], client: int, round_num: int) -> None:
    """The latest last."""
    dates.pop(client, None)
    dates[client] = round_num


def _stacked(found: list[Array | None], width: int) -> Array | None:
    if all(row is None for row in found):
        return None
    rows: Array = np.empty((len(found), width), np.float32)
    for place, row in enumerate(found):
        rows[place] = 0 if row is None else row
    return rows


@contextmanager
def disk() -> Iterator[None]:
    """StorageError where the disk fails or is full."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"what clients owe cannot be written: {error}") from error


def _damaged(path: Path, why: str) -> StateError:
    return StateError(f"{path} is damaged: {why}", remedy="delete it: what clients owed is then forgotten")
