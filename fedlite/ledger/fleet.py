"""Who may connect: devices and invitations, shared by the running server and the operator's commands.

Several processes use the file at the same time; every change is one durable transaction.
"""

import sqlite3
from collections.abc import Callable
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Literal

from fedlite.errors import AccessError, SettingsError
from fedlite.ledger._sqlite import Closing, Database, Form

FORM = Form(
    what="fleet",
    mark=0x464C4631,  # "FLF1"
    version=1,
    schema=(
        "CREATE TABLE device (name TEXT NOT NULL, key_id TEXT NOT NULL UNIQUE, signing_key BLOB NOT NULL,"
        " sealing_key BLOB NOT NULL, certificate_sha256 BLOB NOT NULL UNIQUE,"
        " status TEXT NOT NULL CHECK (status IN ('active', 'revoked')), joined_at REAL NOT NULL)",
        "CREATE UNIQUE INDEX active_name ON device (name) WHERE status = 'active'",
        "CREATE TABLE invite (name TEXT PRIMARY KEY, secret_hash BLOB NOT NULL UNIQUE, expires_at REAL NOT NULL,"
        " used_by TEXT)",
        "CREATE TABLE version (one INTEGER PRIMARY KEY CHECK (one = 1), number INTEGER NOT NULL)",
        "INSERT INTO version VALUES (1, 0)",
    ),
)
COLUMNS = "name, key_id, signing_key, sealing_key, certificate_sha256, status, joined_at"


@dataclass(frozen=True)
class Device:
    """One enrolled device; `key_id` is 32 hex characters, the keys are raw public keys, `joined_at` Unix seconds."""

    name: str
    key_id: str
    signing_key: bytes
    sealing_key: bytes
    certificate_sha256: bytes
    status: Literal["active", "revoked"]
    joined_at: float


class Fleet(Closing):
    """Opened at `path`, created if missing (0600). StateError if damaged, StorageError if the disk fails."""

    def __init__(self, path: Path) -> None:
        self._database = Database(path, FORM)

    def invite(self, name: str, secret_hash: bytes, expires_at: float) -> None:
        """Expect a device of this name until `expires_at` (Unix seconds); replaces an earlier invite of that name.

        Raises SettingsError if an active device has the name.
        """
        with self._database.transaction() as connection:
            if _select(connection, "name = ? AND status = 'active'", name):
                raise SettingsError(
                    f"a device named {name!r} has joined already",
                    remedy=f"choose another name, or revoke {name!r} first",
                )
            row = (name, secret_hash, expires_at)
            connection.execute("INSERT OR REPLACE INTO invite VALUES (?, ?, ?, NULL)", row)
            _rise(connection)

    def redeem(self, secret_hash: bytes, now: float, make: Callable[[str], Device]) -> Device:
        """Spend an invite: store and return `make(name)`, or change nothing and raise.

        AccessError if no invite has this secret, it expired before `now`, or another device used it. The device
        that used it may ask again until it expires (the answer may have been lost); its certificate is renewed.
        What `make` raises passes through, and the invite stays good.
        """
        with self._database.transaction() as connection:
            query = "SELECT name, expires_at, used_by FROM invite WHERE secret_hash = ?"
            invite = connection.execute(query, (secret_hash,)).fetchone()
            if invite is None:
                raise AccessError("this join code is wrong, or was replaced by a newer one")
            name, expires_at, used_by = invite
            if now >= expires_at:
                raise AccessError(f"the join code for {name!r} has expired")
            device = make(name)
            if used_by not in (None, device.key_id):
                raise AccessError(f"the join code for {name!r} was used already, by another device")
            _store(connection, device)
            connection.execute("UPDATE invite SET used_by = ? WHERE name = ?", (device.key_id, name))
            _rise(connection)
        return device

    def find(self, key_id: str) -> Device | None:
        """The device with this key, active or revoked."""
        return self._first("key_id = ?", key_id)

    def find_by_certificate(self, sha256: bytes) -> Device | None:
        """The device with this certificate (SHA-256 of its DER form), active or revoked."""
        return self._first("certificate_sha256 = ?", sha256)

    def devices(self) -> list[Device]:
        """All devices that ever joined, in the order they did."""
        return [Device(*row) for row in self._database.rows(f"SELECT {COLUMNS} FROM device ORDER BY rowid")]

    def revoke(self, name: str) -> Device:
        """Shut out the device of this name for good; SettingsError, listing the names, if there is none."""
        with self._database.transaction() as connection:
            found = _select(connection, "name = ? ORDER BY status", name)  # 'active' before 'revoked'
            if not found:
                rows = connection.execute("SELECT name FROM device WHERE status = 'active' ORDER BY name")
                names = ", ".join(row[0] for row in rows) or "none"
                raise SettingsError(f"no device is named {name!r}; active devices: {names}")
            connection.execute("UPDATE device SET status = 'revoked' WHERE key_id = ?", (found[0].key_id,))
            _rise(connection)
        return replace(found[0], status="revoked")

    def version(self) -> int:
        """A number that rises with every change by any process; cheap to ask often."""
        number: int = self._database.rows("SELECT number FROM version")[0][0]
        return number

    def _first(self, where: str, value: str | bytes) -> Device | None:
        found = self._database.rows(f"SELECT {COLUMNS} FROM device WHERE {where}", value)
        return Device(*found[0]) if found else None


def _select(connection: sqlite3.Connection, where: str, value: str) -> list[Device]:
    rows = connection.execute(f"SELECT {COLUMNS} FROM device WHERE {where}", (value,))
    return [Device(*row) for row in rows]


def _store(connection: sqlite3.Connection, device: Device) -> None:
    """Insert a device, or renew the certificate of the same keys under the same name."""
    known = _select(connection, "key_id = ?", device.key_id)
    if not known:
        connection.execute("INSERT INTO device VALUES (?, ?, ?, ?, ?, ?, ?)", astuple(device))
        return
    if known[0].status == "revoked":
        raise AccessError("this device's keys were revoked", remedy=NEW_KEYS)
    if known[0].name != device.name:
        raise AccessError(f"this device has joined already, as {known[0].name!r}", remedy=NEW_KEYS)
    renewed = (device.certificate_sha256, device.key_id)
    connection.execute("UPDATE device SET certificate_sha256 = ? WHERE key_id = ?", renewed)


def _rise(connection: sqlite3.Connection) -> None:
    connection.execute("UPDATE version SET number = number + 1")


NEW_KEYS = (
    "remove the device's state directory so that it makes new keys, and ask the operator for a new join code"
)
