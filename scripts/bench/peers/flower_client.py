"""The client app of flower_ray.py, in a module of its own so that an actor imports it once."""

import json
from functools import cache

from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from workload import Workload

client = ClientApp()


@cache
def model_of(name: str):
    import torch
    from torch_models import make

    torch.set_num_threads(1)
    return make(name)


@client.query()
def query(message: Message, context: Context) -> Message:
    return Message(message.content, reply_to=message)


@client.train()
def train(message: Message, context: Context) -> Message:
    import torch
    from torch_models import train as train_locally

    work = Workload(**json.loads(message.content["config"]["workload"]))
    model = model_of(work.model)
    arrays = message.content["arrays"]
    model.load_state_dict({name: torch.from_numpy(arrays[name].numpy().copy()) for name in arrays})
    train_locally(model, work, int(context.node_config["partition-id"]))
    after = {name: Array(value.numpy()) for name, value in model.state_dict().items()}
    return Message(RecordDict({"arrays": ArrayRecord(after)}), reply_to=message)
