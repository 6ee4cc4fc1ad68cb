"""Flower's strategies in processes of their own, where nothing else has told Flower which run this is."""

import json
import shutil
from pathlib import Path

import numpy as np

from tests.programs.programs import run, serving, started

STRATEGY = ("--strategy", "flwr:FedMedian")


def test_a_simulation(tmp_path: Path) -> None:
    done = run("simulations", *STRATEGY, "--clients", 5, "--rounds", 2, "--run-dir", tmp_path / "run")
    assert done.code == 0, done.out
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2


def test_a_server_and_its_devices(home: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.npz"
    np.savez(own, x=np.zeros((30, 1, 8, 8), np.float32), y=np.arange(30) % 10)
    shutil.rmtree(home / "server/results")  # of a run with another strategy
    for file in (home / "server").glob("ledger.db*"):
        file.unlink()
    with serving(home / "server", *STRATEGY, "--rounds", 2) as server:
        logs = [tmp_path / f"{name}.log" for name in ("one", "two")]
        devices = [("client", "--state-dir", home / log.stem, "--data", own) for log in logs]
        with started(logs[0], *devices[0]), started(logs[1], *devices[1]):
            server.wait_for("results:")
    rows = [json.loads(line) for line in (home / "server/results/metrics.jsonl").read_text().splitlines()]
    assert [row["num_clients"] for row in rows] == [2, 2]
