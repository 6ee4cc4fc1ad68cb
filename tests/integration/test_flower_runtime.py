"""`flwr run .` on Flower's own local runtime: the same apps, two rounds, a model at the end."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def flower(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An environment with a Flower home of its own; the SuperLink that the run leaves behind is ended."""
    home = tmp_path / "flower"
    env = os.environ | {
        "FLWR_HOME": str(home),
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONWARNINGS": "default",
    }
    yield env
    for process in started_with(home):
        os.kill(process, signal.SIGTERM)


def started_with(home: Path) -> list[int]:
    """Processes whose command line names this Flower home."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(home).encode() in entry.read_bytes():
                found.append(int(entry.parent.name))
        except OSError:
            continue
    return found


@pytest.mark.timeout(280)
def test_two_rounds(flower: dict[str, str], tmp_path: Path) -> None:
    results = tmp_path / "results"
    command = ["flwr", "run", str(ROOT), "--stream", "--federation-config"]
    command += ["num-supernodes=3 client-resources-num-cpus=1", "--run-config"]
    command += [f'run-dir="{results}" rounds=2 epochs=1 quorum=3']
    done = subprocess.run(command, env=flower, capture_output=True, text=True, timeout=240, cwd=tmp_path)
    summary = results / "summary.json"
    for _ in range(50):
        if summary.exists() or done.returncode:
            break
        time.sleep(0.2)
    assert summary.exists(), done.stdout + done.stderr
    rows = [json.loads(line) for line in (results / "metrics.jsonl").read_text().splitlines()]
    assert [row["round"] for row in rows] == [1, 2]
    assert all(row["num_clients"] == 3 for row in rows)
