"""What was measured, in a file that grows by a line for each figure: a search that was stopped goes on from there."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedlite.errors import SettingsError, StorageError
from fedlite.profile.unknown import Unknown

Value = float | Unknown
REMEDY = "give another --out, or free some space and start again: what was measured before is kept"


class Cache:
    """Figures by device and question, in `<folder>/figures.jsonl`.

    A last line that was cut off, as by a power cut, is measured again. SettingsError for a file that is something
    else.
    """

    def __init__(self, folder: Path, device: str) -> None:
        self._path, self._device = folder / "figures.jsonl", device
        self._known = _read(self._path)

    def get(self, figure: str, question: Any, measure: Callable[[], Value]) -> Value:
        """The figure under this device and question (plain JSON), measured if it is not known yet.

        What could not be had is asked again next time.
        """
        key = hashlib.sha256(
            json.dumps([self._device, figure, question], sort_keys=True).encode()
        ).hexdigest()[:32]
        if key not in self._known:
            value = measure()
            if isinstance(value, Unknown):
                return value
            self._known[key] = value
            self._append(
                {"key": key, "figure": figure, "of": question, "device": self._device, "value": value}
            )
        return self._known[key]

    def _append(self, row: dict[str, Any]) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            cut = self._path.exists() and not self._path.read_bytes().endswith(b"\n")
            with self._path.open("a", encoding="utf-8") as file:
                file.write("\n" * cut + json.dumps(row) + "\n")
        except OSError as error:
            raise StorageError(f"cannot write {self._path}: {error.strerror}", remedy=REMEDY) from error


def _read(path: Path) -> dict[str, float]:
    try:
        lines = path.read_text("utf-8").split("\n")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot read {path}: {error}", remedy="give another --out") from error
    known: dict[str, float] = {}
    for line in lines:
        try:
            row = json.loads(line)
            known[str(row["key"])] = float(row["value"])
        except (ValueError, TypeError, KeyError):
            continue  # a line that a power cut left
    if not known and any(lines):
        raise SettingsError(f"{path} holds no measurements", remedy="give another --out")
    return known
