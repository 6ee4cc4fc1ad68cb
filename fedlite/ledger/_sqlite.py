"""One SQLite file that is durable when a transaction returns, and whose failures are fedlite's typed errors.

WAL with synchronous=FULL: a commit is on the disk before `transaction` ends (https://www.sqlite.org/wal.html, §2).
"""

import json
import os
import sqlite3
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from fedlite.errors import StateError, StorageError

BUSY_SECONDS = 30.0
WAL_PAGES = 256  # of 4 kB: where the write-ahead file is folded into the database, and what it is cut back to
DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
UNREADABLE = sqlite3.SQLITE_CORRUPT  # Python found text that is not UTF-8, and gives no code
BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
FAILING = BUSY | {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PROTOCOL,
}


@dataclass(frozen=True)
class Form:
    """What a file is: `mark` (its SQLite application_id), its schema and the schema's version."""

    what: str
    mark: int
    version: int
    schema: tuple[str, ...]


class Database:
    """A connection that one thread at a time uses; opened in any thread. Values are blobs with a CRC-32."""

    def __init__(self, path: Path, form: Form) -> None:
        """Open or create; StateError for a file that is not of this form or damaged, StorageError for the disk."""
        self.path, self.form = path, form
        self._lock = threading.RLock()
        self._failed: str | None = None
        self._connection: sqlite3.Connection | None = None
        try:
            with self._translated():
                created = _create(path)
                self._connection = _connect(path)
                self._fit()
                if created:
                    _sync_folder(path.parent)
        except BaseException:
            self.close()
            raise

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One durable transaction: when it ends without an exception it is on the disk, otherwise nothing is."""
        with self._lock, self._translated():
            connection = self._open()
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:  # SQLite has rolled back by itself when the disk is full
                    with suppress(sqlite3.Error):
                        connection.execute("ROLLBACK")
                raise

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        with self._lock, self._translated():
            return self._open().execute(query, values).fetchall()

    def close(self) -> None:
        """Fold the write-ahead file into the database and close; closing twice is fine."""
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None:
                with suppress(sqlite3.Error):  # everything committed is already durable
                    connection.close()

    def _open(self) -> sqlite3.Connection:
        if self._failed is not None:
            raise StorageError(f"{self.path} failed before: {self._failed}")
        if self._connection is None:
            raise StorageError(f"{self.path} is closed", remedy="open it again")
        return self._connection

    def _fit(self) -> None:
        """Write the schema into an empty file; otherwise check form, version and pages."""
        with self.transaction() as connection:
            mark, version = _pragma(connection, "application_id"), _pragma(connection, "user_version")
            if (mark, version) == (0, 0) and not connection.execute("SELECT 1 FROM sqlite_master").fetchone():
                for statement in self.form.schema:
                    connection.execute(statement)
                connection.execute(f"PRAGMA application_id = {self.form.mark}")
                connection.execute(f"PRAGMA user_version = {self.form.version}")
                return
        if mark != self.form.mark:
            raise StateError(f"{self.path} is a database, but not a fedlite {self.form.what}")
        if version != self.form.version:
            raise StateError(
                f"{self.path} is a {self.form.what} of format {version}, this program reads {self.form.version}"
            )
        report = self.rows("PRAGMA integrity_check(1)")[0][0]
        if report != "ok":
            raise StateError(f"{self.path} is damaged: {report}", remedy=RESTORE)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", UNREADABLE) & 0xFF
            if code in DAMAGED:
                raise StateError(f"{self.path} is damaged or no database: {error}", remedy=RESTORE) from error
            if code not in FAILING:
                raise
            if code == sqlite3.SQLITE_IOERR:
                self._failed = str(error)  # after a failed fsync, a second one proves nothing (Rebello 2020)
            remedy = "stop the other program that uses it" if code in BUSY else None
            raise StorageError(f"cannot write {self.path}: {error}", remedy=remedy) from error


RESTORE = "restore it from a backup, or use another --state-dir or --run-dir"


def checksum(name: str, value: bytes) -> int:
    """CRC-32 of a named value: SQLite checks the form of its pages, not what the values in them say."""
    return zlib.crc32(value, zlib.crc32(name.encode() + b"\0"))


def checked(path: Path, name: str, value: bytes, stored: int) -> bytes:
    """The value, or StateError if name or value are not what was stored."""
    if (found := checksum(name, value)) != stored:
        message = f"{path} is damaged: {name!r} has check value {found:08x}, {stored:08x} was stored"
        raise StateError(message, remedy=RESTORE)
    return value


class Closing:
    """A context manager for what holds a database in `_database`."""

    _database: Database

    def close(self) -> None:
        """Close the file; what was stored stays."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def to_json(value: Any) -> bytes:
    """One form for one value: keys sorted, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _create(path: Path) -> bool:
    """Make the folder and an empty file that only its owner can read. False where the file exists.

    An existing file is never opened here: closing a second descriptor would drop SQLite's locks on it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        with suppress(PermissionError):  # of another owner, who decides
            if path.is_file():
                path.chmod(0o600)
        return False
    except OSError as error:
        raise StorageError(f"cannot create {path}: {error}") from error
    return True


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        _write_ahead(connection, path)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA wal_autocheckpoint = {WAL_PAGES}")
        connection.execute(f"PRAGMA journal_size_limit = {4096 * WAL_PAGES}")
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA cell_size_check = ON")
    except BaseException:
        connection.close()
        raise
    return connection


def _write_ahead(connection: sqlite3.Connection, path: Path) -> None:
    """Switch to WAL. SQLite does not wait for other processes that open the file at this moment; so we do."""
    until = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        except sqlite3.OperationalError as error:
            if (error.sqlite_errorcode & 0xFF) not in BUSY or time.monotonic() > until:
                raise
            time.sleep(0.01)
            continue
        if mode != "wal":
            raise StorageError(f"{path}: its file system does not support SQLite's WAL (got {mode!r})")
        return


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    value: int = connection.execute(f"PRAGMA {name}").fetchone()[0]
    return value


def _sync_folder(folder: Path) -> None:
    """Make the names of new files durable, and the folder's own."""
    for place in (folder, folder.parent):
        descriptor = os.open(place, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
