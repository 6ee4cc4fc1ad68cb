"""Files that are damaged, or something else: a StateError that says so, never wrong values."""

import random
import sqlite3
from pathlib import Path

import pytest

from fedlite.errors import StateError
from fedlite.ledger.fleet import Fleet
from fedlite.ledger.shelf import Shelf
from fedlite.ledger.store import Counted, Ledger, Snapshot

IDENTITY = {"run": "damage"}
MARK = b"these bytes stand once in the file"


def write(path: Path) -> tuple[Snapshot, list[bytes]]:
    with Ledger.open(path, IDENTITY) as ledger:
        for number in range(4):
            ledger.commit(
                number,
                state={"params": MARK + bytes(9000), "masks": b"\1" * 100},
                step=b"step %d" % number * 50,
                counted=[Counted(number, "pi", number, bytes(32))],
                metrics={"round": number, "loss": 0.5, "note": "x" * 200},
            )
        return ledger.latest(), ledger.steps(0, 3)


def test_a_changed_byte_in_a_value_is_found(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    write(path)
    data = bytearray(path.read_bytes())
    assert data.count(MARK) == 1
    data[data.index(MARK)] ^= 1
    path.write_bytes(data)
    with Ledger.open(path, IDENTITY) as ledger:
        with pytest.raises(StateError, match=r"ledger.db is damaged: 'params' has check value"):
            ledger.latest()
        with pytest.raises(StateError, match="restore it from a backup"):
            ledger.latest()


def test_random_damage_is_found_or_harmless(tmp_path: Path) -> None:
    """Flipped bits, zeroed sectors and cut ends: the same values or StateError, nothing in between."""
    path = tmp_path / "ledger.db"
    expected = write(path)
    whole = path.read_bytes()
    moments = random.Random(3)
    found = 0
    for number in range(300):
        data = bytearray(whole)
        place = moments.randrange(len(data))
        if number % 3 == 0:
            data[place] ^= 1 << moments.randrange(8)
        elif number % 3 == 1:
            data = data[: place // 512 * 512] + bytes(512) + data[place // 512 * 512 + 512 :]
        else:
            data = data[: max(1, place)]
        path.write_bytes(data)
        try:
            with Ledger.open(path, IDENTITY) as ledger:
                assert (ledger.latest(), ledger.steps(0, 3)) == expected
                assert len(ledger.history()) == 4
        except StateError:
            found += 1
        for leftover in (tmp_path / "ledger.db-wal", tmp_path / "ledger.db-shm"):
            leftover.unlink(missing_ok=True)
    assert found > 100  # much of the file is unused space or rows that are not read here


@pytest.mark.parametrize(
    "content", [b"no database at all, but long enough to look", b"SQLite format 3\0", b"x"]
)
@pytest.mark.parametrize("kind", [Shelf, Fleet, lambda path: Ledger.open(path, IDENTITY)])
def test_a_file_that_is_no_database_is_refused_and_kept(tmp_path: Path, content: bytes, kind: type) -> None:
    path = tmp_path / "file.db"
    path.write_bytes(content * 3)
    with pytest.raises(StateError, match="damaged or no database"):
        kind(path)
    assert path.read_bytes() == content * 3


def test_an_empty_file_is_a_new_one(tmp_path: Path) -> None:
    (tmp_path / "shelf.db").touch()
    with Shelf(tmp_path / "shelf.db") as shelf:
        assert shelf.names() == []


def test_a_file_of_another_kind_or_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    Shelf(path).close()
    with pytest.raises(StateError, match="not a fedlite ledger"):
        Ledger.open(path, IDENTITY)
    with pytest.raises(StateError, match="not a fedlite fleet"):
        Fleet(path)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 7")
    connection.close()
    with pytest.raises(StateError, match="shelf of format 7, this program reads 1"):
        Shelf(path)


def test_a_database_of_another_program_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    with pytest.raises(StateError, match="not a fedlite shelf"):
        Shelf(path)
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("theirs",)]
    connection.close()
