"""A durable name → bytes map: a device's memory (held model version, residual, pending envelope)."""

from collections.abc import Mapping
from pathlib import Path

from fedlite.ledger._sqlite import Closing, Database, Form, checked, checksum

FORM = Form(
    what="shelf",
    mark=0x464C5331,  # "FLS1"
    version=1,
    schema=("CREATE TABLE entry (name TEXT PRIMARY KEY, value BLOB NOT NULL, crc INTEGER NOT NULL)",),
)


class Shelf(Closing):
    """Opened at `path`, created if missing (0600). StateError if damaged, StorageError if the disk fails."""

    def __init__(self, path: Path) -> None:
        self._database = Database(path, FORM)

    def get(self, name: str) -> bytes | None:
        """The bytes under this name, or None. StateError if they are not what was put."""
        rows = self._database.rows("SELECT value, crc FROM entry WHERE name = ?", name)
        if not rows:
            return None
        return checked(self._database.path, name, *rows[0])

    def put(self, values: Mapping[str, bytes | None]) -> None:
        """Store all of these or none; None deletes. Durable when it returns; StorageError changes nothing."""
        with self._database.transaction() as connection:
            for name, value in values.items():
                if value is None:
                    connection.execute("DELETE FROM entry WHERE name = ?", (name,))
                else:
                    row = (name, value, checksum(name, value))
                    connection.execute("INSERT OR REPLACE INTO entry VALUES (?, ?, ?)", row)

    def names(self) -> list[str]:
        """All names, sorted."""
        return [name for (name,) in self._database.rows("SELECT name FROM entry ORDER BY name")]
