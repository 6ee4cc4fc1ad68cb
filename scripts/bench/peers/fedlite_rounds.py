"""fedlite's own side: a cohort trained by the stacked engine (`engine`), or client by client (`grid`).

Every client's update is made and added to the mean. With `pipeline`, each is trained pruned and int8-aware on top,
encoded with error feedback, decoded as the server does, and then added.
"""

import os
import sys
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import numpy as np
import torch
from torch_models import make
from workload import Workload, read, report, time_rounds

from fedlite import aggregate
from fedlite.compress import quantize
from fedlite.compress.codec import codec_by_name, encode_with_feedback
from fedlite.compress.prune import magnitude_masks
from fedlite.flower import Array, ArrayRecord, ClientApp, Context, Message, MetricRecord, RecordDict
from fedlite.models import params_of
from fedlite.seeds import derive, generator
from fedlite.tensors import add, subtract
from fedlite.train import TrainResult, TrainSettings, evaluate, local_train
from fedlite.types import Result
from fedlite.virtual.grid import VirtualGrid


class Federation:
    """The server's model and what a round does with it. `train` trains a cohort, as `train_cohort` does."""

    def __init__(self, work: Workload, train, *, pipeline: bool) -> None:
        self.work, self.train, self.pipeline = work, train, pipeline
        self.bits = 8 if pipeline else 32
        self.model = make(work.model)
        self.params = params_of(quantize.at(self.model, self.bits))
        self.masks = magnitude_masks(self.params, 0.5) if pipeline else {}
        self.codec, self.owed, self.round = codec_by_name("int8"), {}, 0
        self.settings = TrainSettings(
            epochs=work.epochs, batch_size=work.batch_size, learning_rate=work.learning_rate, bits=self.bits
        )

    def play(self, cohort: np.ndarray) -> None:
        self.round += 1
        seeds = [derive(self.work.seed, "client", self.round, int(index)) for index in cohort]
        results = self.train(self, [int(index) for index in cohort], seeds)
        total = aggregate.start(self.params)
        for index, seed, result in zip(cohort, seeds, results, strict=True):
            update = subtract(result.params, self.params)
            if self.pipeline:
                update = self._across(int(index), update, generator(seed, "codec"))
            total = aggregate.add(total, Result(str(index), update, result.num_examples, {}))
        self.params = add(self.params, aggregate.finish(total))

    def _across(self, index: int, update, chance: np.random.Generator):
        """What the server has of an update after the codec; the codec's loss is owed."""
        payload, self.owed[index] = encode_with_feedback(
            self.codec, update, self.owed.get(index), masks=self.masks, generator=chance
        )
        return self.codec.decode(payload, self.params, masks=self.masks)

    def accuracy(self) -> float:
        x, y = (np.array(self.work.array(name)) for name in ("test_x", "test_y"))
        return evaluate(self.model, self.params, x, y, bits=self.bits, masks=self.masks)["accuracy"]


def by_engine(federation: Federation, cohort: list[int], seeds: list[int]) -> list[TrainResult]:
    from fedlite.virtual.kernel import train_cohort

    work = federation.work
    return train_cohort(
        federation.model,
        federation.params,
        [work.client(index) for index in cohort],
        federation.settings,
        seeds=seeds,
        masks=federation.masks,
        threads=work.threads,
    )


class ByGrid:
    """Messages through VirtualGrid, a client app that calls `local_train`, as many workers as threads."""

    def __init__(self, work: Workload) -> None:
        torch.set_num_threads(1)
        app = ClientApp()
        app.train()(self._answer)
        self.grid = VirtualGrid(app, work.clients, workers=work.threads)
        self.seeds: dict[int, int] = {}

    def __call__(self, federation: Federation, cohort: list[int], seeds: list[int]) -> list[TrainResult]:
        self.federation, self.seeds = federation, dict(zip(cohort, seeds, strict=True))
        messages = [Message(RecordDict(), dst_node_id=index + 2, message_type="train") for index in cohort]
        return [self._read(reply) for reply in self.grid.send_and_receive(messages)]

    def _answer(self, message: Message, context: Context) -> Message:
        index, of = int(context.node_config["partition-id"]), self.federation
        x, y = of.work.client(index)
        result = local_train(of.model, of.params, x, y, of.settings, seed=self.seeds[index], masks=of.masks)
        arrays = ArrayRecord({name: Array(value) for name, value in result.params.items()})
        metrics = MetricRecord(
            {"loss": result.loss, "accuracy": result.accuracy, "num-examples": result.num_examples}
        )
        return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)

    @staticmethod
    def _read(reply: Message) -> TrainResult:
        if reply.has_error():
            raise SystemExit(reply.error.reason)
        found = reply.content["metrics"]
        params = {name: array.numpy() for name, array in reply.content["arrays"].items()}
        return TrainResult(params, float(found["loss"]), float(found["accuracy"]), int(found["num-examples"]))


def noop(work: Workload) -> list[float]:
    """Clients that only answer: every message is made, handled and answered within the time."""
    app = ClientApp()
    app.query()(lambda message, context: Message(message.content, reply_to=message))
    grid = VirtualGrid(app, work.clients)

    def play(cohort: np.ndarray) -> None:
        content = RecordDict()
        messages = (Message(content, dst_node_id=int(index) + 2, message_type="query") for index in cohort)
        replies = list(grid.send_and_receive(messages))
        if len(replies) != len(cohort) or any(reply.has_error() for reply in replies):
            raise SystemExit("a reply is missing or an error")

    return time_rounds(work, play)


def main() -> None:
    work = read()
    if work.model == "none":
        report(work, noop(work), None)
        return
    name, _, pipeline = work.variant.partition("+")
    federation = Federation(work, by_engine if name == "engine" else ByGrid(work), pipeline=bool(pipeline))
    seconds = time_rounds(work, partial(Federation.play, federation))
    report(work, seconds, federation.accuracy())


if __name__ == "__main__":
    main()
