"""Flower's own FedAvg, float32, on Flower's simulation: the stock strategy and a plain torch client, bytes counted.

Run by bytes.py with one JSON argument; prints one JSON object. The clients' samples, the cohort's size, the local
training and the first model are those of the other runs. It ends when the target accuracy is reached.
"""

import json
import logging
import os
import random
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

os.environ |= {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_DISABLE_DOCKER_CPU_WARNING": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "PYTHONWARNINGS": "ignore",
    "OMP_NUM_THREADS": "1",
}
HERE = Path(__file__).resolve().parent
os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), str(HERE.parents[2])])
sys.path.insert(0, str(HERE.parents[2]))

import numpy as np  # noqa: E402
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord  # noqa: E402
from flwr.serverapp import Grid, ServerApp  # noqa: E402
from flwr.serverapp.strategy import FedAvg  # noqa: E402
from trainer import client  # noqa: E402

server = ServerApp()


class Counting:
    """A grid that adds up the arrays' bytes in what it carries."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self.down = self.up = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._grid, name)

    def send_and_receive(self, messages: Iterable[Message], **more: Any) -> list[Message]:
        sent = list(messages)
        self.down += sum(map(size, sent))
        replies = list(self._grid.send_and_receive(sent, **more))
        if any(reply.has_error() for reply in replies):
            raise SystemExit("a reply is an error")
        self.up += sum(map(size, replies))
        return replies


def size(message: Message) -> int:
    """Bytes of the arrays in a message."""
    return sum(len(array.data) for array in message.content["arrays"].values())


class Reached(Exception):
    """All targets."""


def reached(seen: list[float], over: int, target: float) -> bool:
    """Whether the mean over so many rounds was there in any round."""
    means = [sum(seen[end - over : end]) / over for end in range(over, len(seen) + 1)]
    return any(mean >= target for mean in means)


@server.main()
def main(grid: Grid, context: Context) -> None:
    """FedAvg until the target, or the last round."""
    import torch

    from fedlite.data.spec import open_data
    from fedlite.models import initial_params
    from fedlite.modules import module_of
    from fedlite.seeds import derive
    from fedlite.train import evaluate

    torch.set_num_threads(2)
    text = sys.argv[1]
    job = json.loads(text)
    module = module_of(job["model"], 32)
    test = open_data(job["dataset"], split="test", data_dir=Path(job["data_dir"]))
    counting, curve = Counting(grid), list[dict[str, float]]()

    def score(round_num: int, arrays: ArrayRecord) -> MetricRecord:
        params = {name: np.asarray(arrays[name].numpy()) for name in arrays}
        accuracy = evaluate(module, params, test.x, test.y)["accuracy"]
        if round_num:
            curve.append({"accuracy": accuracy, "up": counting.up, "down": counting.down})
            print(f"flower round {round_num}: {accuracy:.2%}", file=sys.stderr, flush=True)
        seen = [row["accuracy"] for row in curve]
        if all(reached(seen, int(over), target) for over, target in job["target"].items()):
            raise Reached
        return MetricRecord({"accuracy": accuracy})

    first = initial_params(module, derive(job["seed"], "model"))
    strategy = FedAvg(
        fraction_train=job["cohort"] / job["clients"], fraction_evaluate=0.0,
        min_train_nodes=job["cohort"], min_available_nodes=job["clients"], weighted_by_key="num-examples",
    )  # fmt: skip
    random.seed(job["seed"])  # the strategy draws its cohorts from the global one
    with suppress(Reached):
        strategy.start(
            counting,  # type: ignore[arg-type]
            ArrayRecord({name: Array(value) for name, value in first.items()}),
            num_rounds=job["rounds"],
            train_config=ConfigRecord({"job": text}),
            evaluate_fn=score,
        )
    print(json.dumps({"curve": curve}), flush=True)


if __name__ == "__main__":
    from flwr.simulation import run_simulation

    logging.getLogger("flwr").setLevel(logging.ERROR)
    settings = json.loads(sys.argv[1])
    backend = {
        "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        "init_args": {"num_cpus": settings["threads"], "include_dashboard": False, "log_to_driver": False},
    }
    run_simulation(server, client, settings["clients"], backend_config=backend)
