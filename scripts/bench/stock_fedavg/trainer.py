"""The client of run.py, in a module of its own so that an actor imports it once."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

client = ClientApp()


@cache
def world(text: str) -> tuple[Any, ...]:
    """(job, clients' samples, module) in an actor."""
    import torch

    from fedlite.data.partition import split
    from fedlite.data.spec import open_data
    from fedlite.modules import module_of

    torch.set_num_threads(1)
    job = json.loads(text)
    data = open_data(job["dataset"], split="train", data_dir=Path(job["data_dir"]))
    return job, data, split(data, job["partition"], job["clients"], job["seed"]), module_of(job["model"], 32)


@client.train()
def train(message: Message, context: Context) -> Message:
    """One epoch of plain SGD."""
    import torch

    job, data, parts, module = world(str(message.content["config"]["job"]))
    arrays = message.content["arrays"]
    module.load_state_dict({name: torch.from_numpy(arrays[name].numpy().copy()) for name in arrays})
    mine = parts[int(context.node_config["partition-id"])]
    chance = torch.Generator().manual_seed(
        int(mine[0]) + 1000 * int(message.content["config"]["server-round"])
    )
    x, y = torch.from_numpy(data.x[mine]), torch.from_numpy(data.y[mine])
    optimizer = torch.optim.SGD(module.parameters(), job["learning_rate"])
    module.train()
    for batch in torch.randperm(len(y), generator=chance).split(job["batch_size"]):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(module(x[batch]), y[batch]).backward()
        optimizer.step()
    after = {name: Array(value.numpy()) for name, value in module.state_dict().items()}
    metrics = MetricRecord({"num-examples": len(mine)})
    return Message(RecordDict({"arrays": ArrayRecord(after), "metrics": metrics}), reply_to=message)
