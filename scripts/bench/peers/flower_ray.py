"""Flower's simulation on Ray: one CPU per client, so as many actors as cores; a model per actor, reused.

The server app sends the cohort with `Grid.send_and_receive` and means what comes back, which is what a stock
strategy does and less.
"""

import logging
import os
import sys

os.environ |= {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_DISABLE_DOCKER_CPU_WARNING": "1",
}
os.environ |= {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0", "PYTHONWARNINGS": "ignore"}
os.environ["PYTHONPATH"] = os.path.dirname(os.path.abspath(__file__))

import time

import numpy as np
from flower_client import client
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import ServerApp
from flwr.simulation import run_simulation
from workload import read, report, time_rounds

work = read()
server = ServerApp()


@server.main()
def main(grid, context) -> None:
    while len(nodes := sorted(grid.get_node_ids())) < work.clients:
        time.sleep(0.1)
    if work.model == "none":
        params = {}
    else:
        from torch_models import make

        params = {name: value.numpy() for name, value in make(work.model).state_dict().items()}

    def play(cohort: np.ndarray) -> None:
        config = ConfigRecord({"workload": sys.argv[1]})
        arrays = ArrayRecord({name: Array(value) for name, value in params.items()})
        content = RecordDict({"config": config, "arrays": arrays} if params else {"config": config})
        kind = "train" if params else "query"
        messages = [Message(content, dst_node_id=nodes[index], message_type=kind) for index in cohort]
        replies = list(grid.send_and_receive(messages))
        if len(replies) != len(messages) or any(reply.has_error() for reply in replies):
            raise SystemExit("a reply is missing or an error")
        for name in params:
            params[name] = np.mean([reply.content["arrays"][name].numpy() for reply in replies], axis=0)

    seconds = time_rounds(work, play)
    found = None
    if params:
        import torch
        from torch_models import accuracy

        model = make(work.model)
        model.load_state_dict({name: torch.from_numpy(value) for name, value in params.items()})
        found = accuracy(model, work)
    report(work, seconds, found)


if __name__ == "__main__":
    logging.getLogger("flwr").setLevel(logging.ERROR)
    resources = {"num_cpus": 1, "num_gpus": 0.0}
    init = {"num_cpus": work.threads, "include_dashboard": False, "log_to_driver": False}
    run_simulation(
        server, client, work.clients, backend_config={"client_resources": resources, "init_args": init}
    )
