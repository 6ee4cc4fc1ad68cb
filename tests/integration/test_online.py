"""A device that learns from files as they arrive: tested first, then learned, and reported."""

from collections.abc import Mapping
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest

from client.config import Config
from client.samples import open_source
from fedlite.apps.client import client_app
from fedlite.apps.device import Device, Ram
from fedlite.apps.job import Workshop, make_job, node, unsigned, unverified
from fedlite.apps.server import run
from fedlite.apps.settings import JobSettings
from fedlite.data.spec import open_data
from fedlite.errors import StateError
from fedlite.flower import Context
from fedlite.ledger.store import Ledger
from fedlite.uplink import Clear
from fedlite.virtual.grid import VirtualGrid

FILES, PER_FILE = 8, 100


class Postman:
    """Delivers the next file of digits after each round, and remembers the rows."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.sent = folder, 0
        self.rows: list[dict[str, Any]] = []
        self.digits = open_data("digits")

    def deliver(self) -> None:
        chosen = np.arange(self.sent * PER_FILE, (self.sent + 1) * PER_FILE)
        part = self.folder / f"{self.sent}.part"
        with part.open("wb") as file:
            np.savez(file, x=self.digits.x[chosen], y=self.digits.y[chosen])
        part.rename(self.folder / f"{self.sent}.npz")
        self.sent += 1

    def status(self, text: str) -> None:
        pass

    def row(self, row: Mapping[str, Any]) -> None:
        self.rows.append(dict(row))
        if self.sent < FILES:
            self.deliver()


def test_prequential_accuracy_rises_as_files_arrive(tmp_path: Path) -> None:
    folder = tmp_path / "incoming"
    folder.mkdir()
    config = Config(
        state_dir=tmp_path, watch=folder, input_shape="1x8x8", num_classes=10, reservoir=300
    )  # fmt: skip
    source, memory = open_source(config), Ram()

    def device_of(context: Context) -> Device:
        return Device("pi", source, memory, Clear(), unverified)

    postman = Postman(folder)
    postman.deliver()
    (folder / "broken.npz").write_bytes(b"not a zip")
    source.draw(lambda x: np.zeros(len(x), np.int64))  # the first look only notes which files are complete
    settings = JobSettings(rounds=FILES + 2, quorum=1, prune_round=5)
    with (
        Ledger.open(tmp_path / "ledger.db", settings.identity()) as ledger,
        VirtualGrid(client_app(device_of), 1) as grid,
    ):
        run(grid, make_job(Workshop(settings), Clear(), unsigned, node), ledger, postman, Event())
    online = [row["prequential"] for row in postman.rows]
    examples = [row["clients"]["2"]["num_examples"] for row in postman.rows]
    assert online[0] < 0.3, "nothing was learned before the first files"
    assert online[-1] > 0.5
    assert max(examples) == 300, "the reservoir is bounded"
    assert postman.rows[-1]["accuracy"] > 0.85


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "incoming").mkdir()
    config = Config(state_dir=tmp_path, watch=tmp_path / "incoming", input_shape="1x8x8", num_classes=10)
    source = open_source(config)
    for text in ("", "[]", '{"seen": "x"}', "nonsense"):
        (tmp_path / "prequential.json").write_text(text)
        with pytest.raises(StateError, match="damaged"):
            source.draw(lambda x: np.zeros(len(x), np.int64))
