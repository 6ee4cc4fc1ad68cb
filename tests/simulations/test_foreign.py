"""A Flower app that knows nothing of fedlite, run unchanged in process."""

import subprocess
import sys
from pathlib import Path
from threading import Event

import pytest

from simulations.foreign import run_app

PYPROJECT = """
[project]
name = "stranger"
version = "1.0.0"

[tool.flwr.app]
publisher = "someone"

[tool.flwr.app.components]
serverapp = "stranger.server_app:app"
clientapp = "stranger.client_app:app"

[tool.flwr.app.config]
num-rounds = 3
out = "OUT"

[tool.flwr.app.config.model]
size = 4
"""
SERVER = """
import numpy as np
from flwr.app import Array, ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()

@app.main()
def main(grid: Grid, context: Context) -> None:
    start = ArrayRecord({"w": Array(np.zeros(context.run_config["model.size"]))})
    strategy = FedAvg(fraction_train=0.5, fraction_evaluate=0.0, min_train_nodes=1)
    result = strategy.start(grid, start, num_rounds=context.run_config["num-rounds"])
    np.save(context.run_config["out"], result.arrays["w"].numpy())
"""
CLIENT = """
import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()

@app.train()
def train(message: Message, context: Context) -> Message:
    rank = context.node_config["partition-id"]
    if rank == 3:
        raise RuntimeError("the third has no power")
    calls = context.state.metric_records.setdefault("calls", MetricRecord({"n": 0}))
    calls["n"] += 1
    w = message.content["arrays"]["w"].numpy() + rank
    content = RecordDict({"arrays": ArrayRecord({"w": Array(w)}), "metrics": MetricRecord({"num-examples": 1})})
    return Message(content, reply_to=message)
"""


def make_app(path: Path) -> Path:
    (path / "stranger").mkdir(parents=True)
    (path / "pyproject.toml").write_text(PYPROJECT.replace("OUT", str(path / "out.npy")))
    (path / "stranger" / "__init__.py").touch()
    (path / "stranger" / "server_app.py").write_text(SERVER)
    (path / "stranger" / "client_app.py").write_text(CLIENT)
    return path


def simulate(path: Path, *more: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "simulations", "--app", str(path), *more]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_stock_app_runs_and_a_failing_client_does_not_end_it(tmp_path: Path) -> None:
    outputs = []
    for name, workers in (("one", "1"), ("two", "3")):
        path = make_app(tmp_path / name)
        done = simulate(path, "--clients", "8", "--workers", workers, "--seed", "5")
        assert done.returncode == 0, done.stderr
        outputs.append((path / "out.npy").read_bytes())
    assert outputs[0] == outputs[1], "the same seed, the same bytes"


def waiting_app(path: Path) -> Path:
    """Its server wants more nodes than there are."""
    app = make_app(path)
    (app / "stranger" / "server_app.py").write_text(
        "from flwr.serverapp import ServerApp\n"
        "app = ServerApp()\n"
        "@app.main()\n"
        "def main(grid, context):\n"
        "    while len(list(grid.get_node_ids())) < 9:\n"
        "        pass\n"
    )
    return app


def test_an_app_that_waits_for_more_nodes_than_there_are_is_told_so(tmp_path: Path) -> None:
    done = simulate(waiting_app(tmp_path / "app"), "--clients", "3")
    assert done.returncode == 2
    assert "looked 20 times for nodes; there are 3, and no more will come (give more --clients" in done.stderr


def test_an_app_that_waits_ends_when_it_is_told_to(tmp_path: Path) -> None:
    stop = Event()
    stop.set()
    assert run_app(waiting_app(tmp_path / "app"), clients=3, workers=1, seed=0, stop=stop) is False


@pytest.mark.parametrize("damage", ["missing", "no components", "wrong object", "no module"])
def test_what_is_no_app_is_named(tmp_path: Path, damage: str) -> None:
    path = make_app(tmp_path / "app")
    file = path / "pyproject.toml"
    if damage == "missing":
        file.unlink()
    elif damage == "no components":
        file.write_text("[tool.flwr.app]\n")
    elif damage == "wrong object":
        file.write_text(file.read_text().replace("client_app:app", "client_app:np"))
    else:
        file.write_text(file.read_text().replace("stranger.client_app", "stranger.absent"))
    done = simulate(path, "--clients", "2")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
