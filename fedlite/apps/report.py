"""What a run shows and leaves behind: the live table, the results folder, the final model."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedlite.ledger.store import Ledger
from fedlite.results.folder import RunFolder
from fedlite.results.live import LiveTable, live


@dataclass(frozen=True)
class Recorder:
    """Tells the live table and the results folder of every round."""

    table: LiveTable
    folder: RunFolder

    def status(self, text: str) -> None:
        """What the run waits for."""
        self.table.status(text)

    def row(self, row: Mapping[str, Any]) -> None:
        """One committed round."""
        self.folder.append(row)
        self.table.add(row)


@contextmanager
def recorder(
    path: Path, config: Mapping[str, Any], rounds: int, title: str, ledger: Ledger
) -> Iterator[Recorder]:
    """A recorder for one run; the report is written when it ends, however it ends.

    What the ledger has committed is resumed; rows that a kill kept from the folder are put in.
    """
    history = [row for row in ledger.history() if "round" in row]
    folder = RunFolder(path, config, resume=ledger.latest() is not None)
    there = {row.get("round") for row in folder.rows()}
    for row in history:
        if row["round"] not in there:
            folder.append(row)
    try:
        with live(rounds, title, done=len(history)) as table:
            if history:
                table.note(f"resumed after round {len(history)}")
            yield Recorder(table, folder)
    finally:
        folder.write_report()
