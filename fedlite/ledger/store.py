"""The server's ledger: one durable transaction per round, so that a kill or a power cut loses no committed round.

A commit holds the round, the model, the step that clients of the previous version need, whose updates entered,
and the metrics: after a restart either all of it is there or nothing.
"""

import json
import os
import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from fedlite.errors import StateError
from fedlite.ledger._sqlite import Closing, Database, Form, checked, checksum, to_json

FORM = Form(
    what="ledger",
    mark=0x464C4C31,  # "FLL1"
    version=1,
    schema=(
        "CREATE TABLE run (one INTEGER PRIMARY KEY CHECK (one = 1), run_id BLOB NOT NULL, identity BLOB NOT NULL,"
        " crc INTEGER NOT NULL)",
        "CREATE TABLE round (round_num INTEGER PRIMARY KEY, metrics BLOB NOT NULL, crc INTEGER NOT NULL)",
        "CREATE TABLE state (name TEXT PRIMARY KEY, value BLOB NOT NULL, crc INTEGER NOT NULL)",
        "CREATE TABLE step (round_num INTEGER PRIMARY KEY, value BLOB NOT NULL, crc INTEGER NOT NULL)",
        "CREATE TABLE counted (round_num INTEGER NOT NULL, sender TEXT NOT NULL, seq BLOB NOT NULL,"
        " digest BLOB NOT NULL, UNIQUE (round_num, sender))",
        "CREATE INDEX counted_by_sender ON counted (sender, round_num)",
        "CREATE TABLE sender (name TEXT PRIMARY KEY, seq BLOB NOT NULL)",
    ),
)

KEEP_STEPS = 1000  # further behind than that, a client gets the whole model
KEEP_STATES = 4  # and where steps take more room than that many states, the oldest go
KEEP_BYTES = 2**26  # but not while they take less than this

RAISE = (
    "INSERT INTO sender VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET seq = excluded.seq"
    " WHERE excluded.seq > sender.seq"
)


@dataclass(frozen=True)
class Counted:
    """One update that entered an aggregate; `seq` (0 to 2^64 − 1) and `digest` are of its envelope."""

    round_num: int
    sender: str
    seq: int
    digest: bytes


@dataclass(frozen=True)
class Snapshot:
    """The last committed round: its number, every state blob, its metrics."""

    round_num: int
    state: dict[str, bytes]
    metrics: dict[str, Any]


class Ledger(Closing):
    """Opened with `Ledger.open`. Every method raises StorageError when the disk is full or fails."""

    def __init__(self, database: Database, run_id: bytes) -> None:
        self._database = database
        self.run_id = run_id

    @classmethod
    def open(cls, path: Path, identity: Mapping[str, Any]) -> Self:
        """The ledger of one run; the first open draws its `run_id` (16 bytes) and stores `identity` (JSON values).

        Raises StateError if the file is of another identity (naming each differing key), of another format,
        damaged, or no ledger.
        """
        database = Database(path, FORM)
        try:
            with database.transaction() as connection:
                fresh, text = os.urandom(16), to_json(identity)
                row = (fresh, text, checksum("run", fresh + text))
                connection.execute("INSERT OR IGNORE INTO run VALUES (1, ?, ?, ?)", row)
                run_id, stored, crc = connection.execute("SELECT run_id, identity, crc FROM run").fetchone()
            checked(path, "run", run_id + stored, crc)
            _check_identity(path, json.loads(stored), json.loads(to_json(identity)))
        except BaseException:
            database.close()
            raise
        return cls(database, run_id)

    def commit(
        self,
        round_num: int,
        *,
        state: Mapping[str, bytes],
        step: bytes | None,
        counted: Sequence[Counted],
        metrics: Mapping[str, Any],
        keep_steps: int = KEEP_STEPS,
    ) -> None:
        """Store a round in one transaction: durable when this returns, otherwise nothing changed.

        `round_num` is the last one plus 1, and 0 for the initial model; `state` replaces the previous state;
        `step` takes a client from the version before to this one; the last `keep_steps` stay, or fewer, where they
        are larger than KEEP_STATES states. Raises StateError
        for another `round_num`, a sender counted twice, or a sequence number that does not rise.
        """
        text = to_json(metrics)
        with self._database.transaction() as connection:
            (last,) = connection.execute("SELECT MAX(round_num) FROM round").fetchone()
            expected = 0 if last is None else last + 1
            if round_num != expected:
                raise StateError(f"round {round_num} cannot be committed, {expected} is next")
            row = (round_num, text, checksum(f"round {round_num}", text))
            connection.execute("INSERT INTO round VALUES (?, ?, ?)", row)
            connection.execute("DELETE FROM state")
            blobs = [(name, value, checksum(name, value)) for name, value in state.items()]
            connection.executemany("INSERT INTO state VALUES (?, ?, ?)", blobs)
            if step is not None:
                row = (round_num, step, checksum(f"step {round_num}", step))
                connection.execute("INSERT INTO step VALUES (?, ?, ?)", row)
            _count(connection, round_num, counted)
            connection.execute("DELETE FROM step WHERE round_num <= ?", (round_num - keep_steps,))
            _prune_steps(connection, max(KEEP_BYTES, KEEP_STATES * sum(len(value) for _, value, _ in blobs)))

    def latest(self) -> Snapshot | None:
        """The last committed round, or None before the first. StateError if a blob is not what was committed."""
        with self._database.transaction() as connection:
            query = "SELECT round_num, metrics, crc FROM round ORDER BY round_num DESC LIMIT 1"
            row = connection.execute(query).fetchone()
            blobs = connection.execute("SELECT name, value, crc FROM state ORDER BY rowid").fetchall()
        if row is None:
            return None
        path = self._database.path
        state = {name: checked(path, name, value, crc) for name, value, crc in blobs}
        return Snapshot(row[0], state, self._metrics(*row))

    def steps(self, after: int, until: int) -> list[bytes] | None:
        """The steps of rounds after + 1 to until, in order; None unless all of them are there."""
        query = "SELECT round_num, value, crc FROM step WHERE round_num > ? AND round_num <= ?"
        found = sorted(self._database.rows(query, after, until))
        if len(found) != max(0, until - after):
            return None
        path = self._database.path
        return [checked(path, f"step {number}", value, crc) for number, value, crc in found]

    def step_sizes(self) -> dict[int, int]:
        """Bytes of each step that is kept, by its round; they are not read."""
        return dict(self._database.rows("SELECT round_num, LENGTH(value) FROM step"))

    def last_counted(self, sender: str) -> Counted | None:
        """The sender's latest update that entered an aggregate."""
        found = self._counted("WHERE sender = ? ORDER BY round_num DESC LIMIT 1", sender)
        return found[0] if found else None

    def counted_in(self, round_num: int) -> list[Counted]:
        """The updates that entered a round's aggregate, in the order they were given to `commit`."""
        return self._counted("WHERE round_num = ? ORDER BY rowid", round_num)

    def history(self) -> list[dict[str, Any]]:
        """The metrics of every round, in order."""
        rows = self._database.rows("SELECT round_num, metrics, crc FROM round ORDER BY round_num")
        return [self._metrics(*row) for row in rows]

    def _metrics(self, round_num: int, text: bytes, crc: int) -> dict[str, Any]:
        metrics: dict[str, Any] = json.loads(checked(self._database.path, f"round {round_num}", text, crc))
        return metrics

    def _counted(self, where: str, *values: Any) -> list[Counted]:
        query = f"SELECT round_num, sender, seq, digest FROM counted {where}"
        rows = self._database.rows(query, *values)
        return [Counted(number, sender, _unpack(seq), digest) for number, sender, seq, digest in rows]


def _prune_steps(connection: sqlite3.Connection, most: int) -> None:
    """Delete the oldest steps of those that take more than `most` bytes together."""
    total = 0
    for number, size in connection.execute(
        "SELECT round_num, LENGTH(value) FROM step ORDER BY round_num DESC"
    ):
        total += size
        if total > most:
            connection.execute("DELETE FROM step WHERE round_num <= ?", (number,))
            return


def _count(connection: sqlite3.Connection, round_num: int, counted: Sequence[Counted]) -> None:
    """Write the counted rows and raise their senders' sequence numbers, or StateError."""
    senders = Counter(entry.sender for entry in counted)
    if twice := [sender for sender, times in senders.items() if times > 1]:
        raise StateError(f"counted twice in round {round_num}: {', '.join(twice)}")
    if strays := {entry.round_num for entry in counted} - {round_num}:
        raise StateError(f"updates of rounds {sorted(strays)} in the commit of round {round_num}")
    before = connection.total_changes
    connection.executemany(RAISE, [(entry.sender, _pack(entry.seq)) for entry in counted])
    if (stale := len(counted) - (connection.total_changes - before)) > 0:
        raise StateError(f"{stale} of {len(counted)} updates carry a sequence number that was counted before")
    rows = [(round_num, entry.sender, _pack(entry.seq), entry.digest) for entry in counted]
    connection.executemany("INSERT INTO counted VALUES (?, ?, ?, ?)", rows)


def _pack(seq: int) -> bytes:
    """Eight bytes that SQLite orders as the numbers, which may exceed its integers."""
    return seq.to_bytes(8, "big")


def _unpack(stored: bytes) -> int:
    return int.from_bytes(stored, "big")


def _check_identity(path: Path, stored: dict[str, Any], given: dict[str, Any]) -> None:
    names = sorted(key for key in stored.keys() | given.keys() if stored.get(key) != given.get(key))
    if names:
        differences = "; ".join(f"{key}: {stored.get(key)!r} there, {given.get(key)!r} now" for key in names)
        raise StateError(
            f"{path} belongs to another run: {differences}",
            remedy="start with that run's settings, or use another --state-dir or --run-dir",
        )
