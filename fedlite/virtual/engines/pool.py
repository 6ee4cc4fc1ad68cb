"""A pool of processes with torch: as the loop, bit for bit, on several cores.

Workers are forked, so they have the population without a copy. Weights, masks and results are in memory that
they share with their parent; a pipe carries a client's number, seed and place.
"""

import multiprocessing
import os
import signal
import warnings
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any

import torch

from fedlite.errors import SettingsError
from fedlite.virtual.engines.area import Area
from fedlite.virtual.engines.base import Share, Work
from fedlite.virtual.engines.worker import SIGNALS, Figures, Order, Task, serve
from fedlite.virtual.rows import Trained, width

if TYPE_CHECKING:
    from multiprocessing.context import ForkProcess  # which is not everywhere

AHEAD = 2  # tasks a worker has at once, so that it does not wait for its parent
DEATHS = 2  # of a client's workers, and it has failed
LOOK_SECONDS = 1.0  # between two looks whether a silent worker lives


def unable() -> str | None:
    """Why there is no pool on this machine; None where there is."""
    if "fork" not in multiprocessing.get_all_start_methods():
        return "this system cannot fork processes, which is how workers get the population"
    if torch.accelerator.is_available():
        return (
            "torch has an accelerator here, with threads that a forked worker would miss; hide it from torch"
        )
    return None


@dataclass(eq=False)
class _Worker:
    """A process and the (place, slot) of its tasks, the one it is at first."""

    process: "ForkProcess"
    pipe: "Connection[Any, Any]"
    slots: tuple[int, ...]
    tasks: deque[tuple[int, int]] = field(default_factory=deque)

    def free_slot(self) -> int:
        used = {slot for _, slot in self.tasks}
        return next(slot for slot in self.slots if slot not in used)

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()

    def died_of(self) -> str:
        code = self.process.exitcode or 0
        return signal.Signals(-code).name if code < 0 else f"exit status {code}"


class Pool:
    """Trains in `workers` ≥ 1 processes, which begin with the first block and end with `close` or this process.

    A worker that dies is replaced and its client trained again; a client whose workers died twice has failed.
    SettingsError where `unable` says why.
    """

    name = "torch, a pool of processes"

    def __init__(self, share: Share, workers: int) -> None:
        if why := unable():
            raise SettingsError(why, remedy="train one client after another")
        if workers < 1:
            raise SettingsError(f"workers is {workers}; at least 1 is wanted")
        self._share, self._count = share, workers
        self._area = Area(0, 0)
        self._workers: list[_Worker] = []

    @property
    def pids(self) -> list[int]:
        """The processes that are at work or wait for it."""
        return [worker.process.pid or 0 for worker in self._workers]

    def train(self, work: Work, clients: Sequence[int], seeds: Sequence[int]) -> Trained:
        """See Engine. Whatever interrupts it ends the workers; the next block begins with new ones."""
        done = Trained.blank(len(clients), width(work.params))
        try:
            if clients:
                order = self._prepare(work)
                _Block(self, order, done, clients, seeds).run(self._workers)
        except BaseException:
            self.close()
            raise
        return done

    def close(self) -> None:
        """See Engine."""
        while self._workers:
            self._workers.pop().end()

    def _prepare(self, work: Work) -> Order:
        """Workers that have room for this model and know it."""
        floats = width(work.params)
        if floats > self._area.floats:
            self.close()
            self._area = Area(floats, AHEAD * self._count)
        order = Order(work.model, self._area.write(work), work.settings)
        while len(self._workers) < self._count:
            self._workers.append(self.fork(len(self._workers)))
        for worker in self._workers:
            self.send(worker, order)
        return order

    def fork(self, number: int) -> _Worker:
        """The worker of this number, new. SettingsError when the system has no room for it."""
        context = multiprocessing.get_context("fork")
        here, there = context.Pipe()
        arguments = (there, self._share, self._area, os.getpid())
        process = context.Process(target=serve, args=arguments, daemon=True)
        try:
            with _undisturbed():
                process.start()
        except OSError as error:
            raise SettingsError(f"cannot fork a worker: {error}", remedy="use fewer workers") from error
        there.close()
        return _Worker(process, here, tuple(range(number * AHEAD, (number + 1) * AHEAD)))

    def send(self, worker: _Worker, message: Order | Task) -> None:
        """To a worker that may have died: then its silence tells."""
        try:
            worker.pipe.send(message)
        except OSError:
            return

    def slot(self, number: int, floats: int) -> Any:
        """A row of results."""
        return self._area.slot(number, floats)


class _Block:
    """One block of clients on its way through the workers."""

    def __init__(
        self, pool: Pool, order: Order, done: Trained, clients: Sequence[int], seeds: Sequence[int]
    ) -> None:
        self.pool, self.order, self.done = pool, order, done
        self.clients, self.seeds = clients, seeds
        self.waiting = deque(range(len(clients)))
        self.deaths: Counter[int] = Counter()

    def run(self, workers: list[_Worker]) -> None:
        """Until each client has a row or has failed."""
        while True:
            for worker in workers:
                self._fill(worker, len(workers))
            busy = [worker for worker in workers if worker.tasks]
            if not busy:
                return
            ready = wait([worker.pipe for worker in busy], LOOK_SECONDS)
            for worker in busy:
                if worker.pipe in ready or not worker.process.is_alive():
                    self._hear(worker, workers)

    def _fill(self, worker: _Worker, workers: int) -> None:
        """Tasks for this worker; the last ones go to whoever has none."""
        while self.waiting and len(worker.tasks) < (AHEAD if len(self.waiting) > workers else 1):
            place, slot = self.waiting.popleft(), worker.free_slot()
            worker.tasks.append((place, slot))
            self.pool.send(worker, Task(slot, int(self.clients[place]), int(self.seeds[place])))

    def _hear(self, worker: _Worker, workers: list[_Worker]) -> None:
        try:
            reply = worker.pipe.recv() if worker.pipe.poll() else None
        except (EOFError, OSError):
            reply = None
        if reply is None:
            self._replace(worker, workers)
            return
        place, slot = worker.tasks.popleft()
        if isinstance(reply, Figures):
            self.done.updates[place] = self.pool.slot(slot, self.done.updates.shape[1])
            self.done.loss[place], self.done.accuracy[place] = reply.loss, reply.accuracy
            self.done.counts[place] = reply.count
        else:
            self.done.failed[place] = reply

    def _replace(self, worker: _Worker, workers: list[_Worker]) -> None:
        """A new worker for one that died; the client it was at is tried once more, the others were not begun."""
        worker.end()
        places = [place for place, _ in worker.tasks]
        self.deaths[places[0]] += 1
        if self.deaths[places[0]] == DEATHS:
            client = self.clients[places.pop(0)]
            self.done.failed[worker.tasks[0][0]] = (
                f"the process that trained client {client} ended {DEATHS} times, the last time by "
                f"{worker.died_of()}; is there memory enough for it?"
            )
        self.waiting.extendleft(reversed(places))
        number = workers.index(worker)
        workers[number] = self.pool.fork(number)
        self.pool.send(workers[number], self.order)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """No signal before the child has its own handlers; and no warning that other threads are not in it.

    A worker needs none of them: it computes on one thread, and waits for no lock of theirs.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
            yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
