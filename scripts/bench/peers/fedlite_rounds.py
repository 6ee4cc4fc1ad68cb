"""fedlite's own side: a cohort trained by an engine of the simulator (`compiled`, `pool`, `ray`) and its mean taken.

Every client's update is there, as a row, before it is added. With `+pipeline`, each is trained pruned and int8-aware,
encoded with error feedback, decoded as the server does, and then added; `+pipeline:sparse` names the codec, which is
int8 otherwise.
"""

import os
import sys
import tempfile
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import numpy as np
import torch
from torch_models import spec_of
from workload import Workload, read, report, time_rounds

from fedlite.apps.stacked import AT_ONCE, USUAL_BYTES
from fedlite.compress.presets import codec_by_name
from fedlite.compress.prune import magnitude_masks
from fedlite.flower import ClientApp, Message, RecordDict
from fedlite.models import params_of
from fedlite.modules import module_of
from fedlite.seeds import derive_each
from fedlite.tensors import add, apply_masks
from fedlite.train import TrainSettings, evaluate
from fedlite.uplink import FRESH_ROUNDS
from fedlite.virtual.coding import code_rows
from fedlite.virtual.engines.base import Engine, Share, Work
from fedlite.virtual.engines.compiled import Compiled
from fedlite.virtual.engines.pool import Pool
from fedlite.virtual.grid import VirtualGrid
from fedlite.virtual.kernel.heap import keep_freed_memory
from fedlite.virtual.kernel.reduce import add_rows
from fedlite.virtual.owed import Owed
from fedlite.virtual.rows import from_row, width
from fedlite.virtual.samples import Picked


def share_of(work: Workload) -> Share:
    """Clients' samples, in memory and where they lie."""
    x, y = (np.array(work.array(name)) for name in ("x", "y"))
    places = np.arange(y.size).reshape(y.shape)
    flat = x.reshape(-1, *x.shape[2:]), y.reshape(-1).astype(np.int64)
    return lambda client: Picked(*flat, places[client])


class Federation:
    """The server's model and what a round does with it."""

    def __init__(self, work: Workload, engine: Engine, *, pipeline: bool, codec: str) -> None:
        self.work, self.engine, self.pipeline = work, engine, pipeline
        self.bits = 8 if pipeline else 32
        self.model = spec_of(work.model)
        params = params_of(module_of(self.model, self.bits))
        self.masks = magnitude_masks(params, 0.5) if pipeline else {}
        self.params = apply_masks(params, self.masks)
        self.codec, self.round = codec_by_name(codec), 0
        self.owed = Owed.empty(width(params), 2**31, Path(tempfile.gettempdir()))
        self.settings = TrainSettings(
            epochs=work.epochs, batch_size=work.batch_size, learning_rate=work.learning_rate, bits=self.bits
        )

    def play(self, cohort: np.ndarray) -> None:
        self.round += 1
        clients = [int(index) for index in cohort]
        total, weight = np.zeros(width(self.params)), 0
        size = max(AT_ONCE * self.work.threads, USUAL_BYTES // (4 * total.size))
        work = Work(self.model, self.params, self.masks, self.settings)
        for begin in range(0, len(clients), size):
            block = clients[begin : begin + size]
            seeds = derive_each(block, before=(self.work.seed, "client", self.round)).tolist()
            done = self.engine.train(work, block, seeds)
            if done.failed:
                raise SystemExit(f"failed: {done.failed}")
            rows = self._across(block, done.updates, seeds) if self.pipeline else done.updates
            add_rows(total, rows, done.counts.astype(np.float64), self.work.threads)
            weight += int(done.counts.sum())
        self.params = add(self.params, from_row((total / weight).astype(np.float32), self.params))

    def _across(self, clients: list[int], rows: np.ndarray, seeds: list[int]) -> np.ndarray:
        """What the server has of updates after the codec; the codec's losses are owed."""
        coded = code_rows(
            self.codec, rows, self.owed.of(clients, self.round - FRESH_ROUNDS), like=self.params, masks=self.masks,
            seeds=seeds, threads=self.work.threads,
        )  # fmt: skip
        self.owed.settle(clients, coded.residual, self.round)
        self.owed.forget(self.round - FRESH_ROUNDS)
        return coded.decoded

    def accuracy(self) -> float:
        x, y = (np.array(self.work.array(name)) for name in ("test_x", "test_y"))
        module = module_of(self.model, self.bits)
        return evaluate(module, self.params, x, y, bits=self.bits, masks=self.masks)["accuracy"]


def engine_of(name: str, work: Workload) -> Engine:
    if name == "compiled":
        return Compiled(share_of(work), work.threads)
    if name == "pool":
        return Pool(share_of(work), work.threads)
    from fedlite.virtual.engines.ray_cluster import RayCluster

    return RayCluster(partial(share_of, work), work.threads)


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
    keep_freed_memory()
    if work.model == "none":
        report(work, noop(work), None)
        return
    torch.set_num_threads(1)
    name, _, pipeline = work.variant.partition("+")
    codec = pipeline.partition(":")[2] or "int8"
    engine = engine_of(name, work)
    try:
        federation = Federation(work, engine, pipeline=bool(pipeline), codec=codec)
        seconds = time_rounds(work, partial(Federation.play, federation))
    finally:
        engine.close()
    report(work, seconds, federation.accuracy())


if __name__ == "__main__":
    main()
