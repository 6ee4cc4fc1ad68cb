"""The cohort app against the client app alone: the same federation, the same parameters."""

from pathlib import Path
from threading import Event

import numpy as np
import pytest

from fedlite.apps.client import client_app
from fedlite.apps.device import Device, Fixed, Ram
from fedlite.apps.job import Workshop, make_job, node, unsigned, unverified
from fedlite.apps.many import CohortApp
from fedlite.apps.server import run
from fedlite.apps.settings import JobSettings
from fedlite.flower import ClientApp, Context
from fedlite.ledger.store import Ledger
from fedlite.rounds import Model
from fedlite.uplink import Clear
from fedlite.virtual.grid import VirtualGrid
from tests.integration.federation import Notes, shares

FLOAT = {
    "bits": 32,
    "sparsity": 0.5,
    "prune_round": 2,
    "uplink_codec": "float32",
    "downlink_codec": "float32",
}


def federate(
    settings: JobSettings, folder: Path, *, together: bool, threads: int = 1, empty: int = -1
) -> tuple[Model, Notes]:
    folder.mkdir()
    data, memories = shares(7), [Ram() for _ in range(7)]

    def device_of(context: Context) -> Device:
        index = int(context.node_config["partition-id"])
        x, y = data[index].x, data[index].y
        source = Fixed(x[:0], y[:0]) if index == empty else Fixed(x, y)
        return Device(f"client-{index}", source, memories[index], Clear(), unverified)

    app: ClientApp = CohortApp(device_of, threads=threads) if together else client_app(device_of)
    notes = Notes()
    with Ledger.open(folder / "ledger.db", settings.identity()) as ledger, VirtualGrid(app, 7) as grid:
        return run(grid, make_job(Workshop(settings), Clear(), unsigned, node), ledger, notes, Event()), notes


@pytest.mark.parametrize("strategy", ["fedavg", "fedprox:mu=0.1", "fedadam", "flwr:FedMedian"])
@pytest.mark.parametrize("model", ["linear", "2nn", "small_cnn"])
def test_five_rounds_agree_to_1e_5(tmp_path: Path, strategy: str, model: str) -> None:
    settings = JobSettings(
        rounds=5, model=model, strategy=strategy, evaluate_every=0, learning_rate=0.05, momentum=0.5, cohort=5, **FLOAT
    )  # fmt: skip
    alone, _ = federate(settings, tmp_path / "alone", together=False)
    together, _ = federate(settings, tmp_path / "together", together=True)
    for name, want in alone.params.items():
        scale = float(np.abs(want).max())
        np.testing.assert_allclose(together.params[name], want, rtol=0, atol=1e-5 * scale, err_msg=name)


def test_threads_do_not_show(tmp_path: Path) -> None:
    settings = JobSettings(rounds=3, evaluate_every=0, prune_round=1)
    hashes = {
        federate(settings, tmp_path / str(threads), together=True, threads=threads)[0].held.hash
        for threads in (1, 2, 5)
    }
    assert len(hashes) == 1


def test_a_client_without_samples_fails_alone(tmp_path: Path) -> None:
    settings = JobSettings(rounds=2, evaluate_every=0)
    _, notes = federate(settings, tmp_path / "run", together=True, empty=3)
    assert [row["num_clients"] for row in notes.rows] == [6, 6]
    assert all("no samples" in row["dropped"]["5"] for row in notes.rows)
