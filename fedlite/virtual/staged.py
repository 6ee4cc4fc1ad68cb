"""What one round will have changed of what virtual clients owe: kept apart until the round is committed."""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedlite.types import Array
from fedlite.virtual.owed import Owed, disk


@dataclass
class Staged:
    """The blocks of a round, in order; beyond `limit` bytes they lie on disk, in a folder of `owed`."""

    owed: Owed
    limit: int
    _blocks: list[tuple[list[int], Array | None, Array | None]] = field(default_factory=list)
    _bytes: int = 0

    def counted(self, clients: list[int], residual: Array | None) -> None:
        """See Owed.settle."""
        self._keep(clients, residual, None)

    def lost(self, clients: list[int], updates: Array) -> None:
        """See Owed.lose."""
        self._keep(clients, None, updates)

    def settle(self, learned: NDArray[np.bool_], round_num: int = 0, since: int = 0) -> None:
        """Owe what was staged in that round; what was owed before it and made before `since` is forgotten."""
        for clients, residual, updates in self._blocks:
            if updates is None:
                self.owed.settle(clients, residual, round_num)
            else:
                self.owed.lose(clients, updates, learned, round_num, since)
        self.owed.forget(since)
        self._blocks.clear()

    def _keep(self, clients: list[int], residual: Array | None, updates: Array | None) -> None:
        rows = residual if updates is None else updates
        if rows is not None and (self._bytes + rows.nbytes) > self.limit:
            rows = _on_disk(rows, self.owed.losses.folder)
        elif rows is not None:
            self._bytes += rows.nbytes
        self._blocks.append((clients, rows, None) if updates is None else (clients, None, rows))


def _on_disk(rows: Array, folder: Path) -> Array:
    """The same rows, in a file without a name that ends with them."""
    if not rows.size:
        return rows
    with disk(), tempfile.TemporaryFile(dir=folder) as file:
        rows.tofile(file)
        file.flush()
        return np.memmap(file, np.float32, "r", shape=rows.shape)
