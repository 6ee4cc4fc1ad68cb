"""Ctrl-C and SIGTERM: every program ends cleanly with code 0, leaves its report, and can be started again."""

import json
import signal
from pathlib import Path

import numpy as np

from tests.programs.programs import serving, started


def test_a_server(home: Path) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        with serving(home / "server") as server:
            done = server.end(number)
        assert done.code == 0
        assert "Traceback" not in done.out
        assert done.out.splitlines()[-1] == f"results: {home / 'server' / 'results' / 'report.html'}"
        assert (home / "server" / "results" / "report.html").exists()


def test_a_device_while_connected_and_while_it_looks_for_its_server(home: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.npz"
    np.savez(own, x=np.zeros((30, 1, 8, 8), np.float32), y=np.arange(30) % 10)
    arguments = ("client", "--state-dir", home / "one", "--data", own)
    with serving(home / "server") as server:
        for number in (signal.SIGINT, signal.SIGTERM):
            with started(tmp_path / "one.log", *arguments) as device:
                device.wait_for("connected to the server")
                done = device.end(number)
            assert done.code == 0
            assert "Traceback" not in done.out
        server.end(signal.SIGTERM)
    with started(tmp_path / "one.log", *arguments) as device:
        device.wait_for("next try in")
        assert device.end(signal.SIGINT).code == 0


def test_a_simulation_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    """Stopped in the midst of a round, twice; nothing that was committed is lost or done again."""
    run_dir = tmp_path / "run"
    arguments = (
        "simulations", "--model", "linear", "--bits", "32", "--clients", "20", "--epochs", "50",
        "--run-dir", run_dir, "--evaluate-every", "0", "--rounds", "10000",
    )  # fmt: skip
    stopped = 0
    for number in (signal.SIGINT, signal.SIGTERM):
        with started(tmp_path / "log", *arguments) as simulation:
            simulation.wait_for(f"round {stopped + 1}/10000")
            done = simulation.end(number)
        assert done.code == 0
        assert "Traceback" not in done.out
        assert ("resumed after round" in done.out) == (stopped > 0)
        rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
        assert [row["round"] for row in rows] == list(range(1, len(rows) + 1))
        assert len(rows) > stopped
        stopped = len(rows)
        assert "<html" in (run_dir / "report.html").read_text()
        assert (run_dir / "model.safetensors").exists()
