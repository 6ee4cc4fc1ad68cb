"""A process of the pool: trains one client after another, where its parent says."""

import gc
import os
import signal
import threading
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch

from fedlite.tensors import subtract
from fedlite.train_settings import TrainSettings
from fedlite.virtual.engines.area import Area, Outline
from fedlite.virtual.engines.base import Share, Work, samples_of
from fedlite.virtual.engines.loop import reason, train_alone
from fedlite.virtual.rows import to_row, width

SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM})
LOOK_SECONDS = 0.5  # how soon a worker sees that its parent is gone


@dataclass(frozen=True)
class Order:
    """What all clients after it are trained with; weights and masks lie in the area."""

    model: str
    outline: Outline
    settings: TrainSettings


@dataclass(frozen=True)
class Task:
    """Train this client; its row goes to this slot."""

    slot: int
    client: int
    seed: int


@dataclass(frozen=True)
class Figures:
    """What a client's training gave beside its row."""

    loss: float
    accuracy: float
    count: int


def serve(pipe: "Connection[Any, Any]", share: Share, area: Area, parent: int) -> None:
    """Answer each Task with its Figures, or with why it failed, until the parent closes the pipe or ends."""
    _settle(parent)
    work: Work | None = None
    try:
        while True:
            match pipe.recv():
                case Order(model, outline, settings):
                    work = Work(model, *area.read(outline), settings)
                case Task(slot, client, seed) if work:
                    pipe.send(_train(work, share, client, seed, area.slot(slot, width(work.params))))
    except (EOFError, OSError):
        os._exit(0)


def _train(work: Work, share: Share, client: int, seed: int, row: np.ndarray[Any, Any]) -> Figures | str:
    try:
        result = train_alone(work, samples_of(share, client), seed)
    except Exception as error:  # one client's failure is its own
        return reason(error)
    row[:] = to_row(subtract(result.params, work.params))
    return Figures(result.loss, result.accuracy, result.num_examples)


def _settle(parent: int) -> None:
    """Become a process of its own: signals are the parent's to decide on, and its end is ours."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    torch.set_num_threads(1)  # also because the parent's threads are not here
    gc.freeze()  # what was inherited is not looked at, and so not copied
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK_SECONDS)
    os._exit(0)
