"""The same training on a Ray cluster: a trainer on each of its cores, wherever that is. (Moritz et al. 2018)

Each trainer opens the population itself. Weights and masks are put into Ray's object store once for all blocks
of a round; a task carries clients' numbers, and their rows come back through the store. Whoever can reach a Ray
cluster can run code on it: keep it in a network of its own.
"""

import logging
import os
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from fedlite.errors import LinkError, SettingsError
from fedlite.virtual import kernel
from fedlite.virtual.engines.base import Engine, Share, Work
from fedlite.virtual.engines.compiled import Compiled, unable
from fedlite.virtual.engines.loop import Loop
from fedlite.virtual.kernel.heap import keep_freed_memory
from fedlite.virtual.rows import Trained, width

AHEAD = 2  # tasks a trainer has at once, so that it does not wait for us
TASKS = 4  # per trainer and block: fewer leave cores idle at its end, more cost messages
FEWEST = 16  # clients in a task, unless a trainer would have none: a task costs milliseconds
STARTS = 3  # that may fail in a block
START_SECONDS = 300.0  # for a trainer to start; torch alone may take ten


class Trainer:
    """What runs on the cluster: its own population, one core."""

    def __init__(self, make_share: Callable[[], Share]) -> None:
        import torch

        torch.set_num_threads(1)
        keep_freed_memory()
        share = make_share()
        self._engines: dict[bool, Engine] = {True: Compiled(share, 1), False: Loop(share)}

    def compiles(self) -> bool:
        """Whether the kernel works here. The first call, so it also says that the trainer has started."""
        return kernel.available() is None

    def train(self, work: Work, compiled: bool, clients: Sequence[int], seeds: Sequence[int]) -> Trained:
        """Their rows; every trainer is told whether to use the kernel, so that all count alike."""
        return self._engines[compiled].train(work, clients, seeds)


@dataclass
class _Seat:
    """A trainer; `starting` until it has started; its tasks (places, reference), the one it is at first."""

    actor: Any
    starting: Any
    tasks: deque[tuple[list[int], Any]] = field(default_factory=deque)

    def awaited(self) -> Any:
        return self.starting if self.starting is not None else self.tasks[0][1]


class RayCluster:
    """Trains on `workers` cores of a Ray cluster: the one this process is connected to, else `address`.

    Without either, Ray is started on this machine, and ended by `close`. A trainer that dies is replaced, and its
    clients are trained again one by one; whoever's trainer dies again has failed. `make_share` must pickle: a
    function of an installed module, or functools.partial of one. SettingsError where Ray is missing, does not
    answer, or has too few cores; LinkError when no trainer can be started any more.
    """

    name = "Ray"

    def __init__(self, make_share: Callable[[], Share], workers: int, address: str | None = None) -> None:
        if workers < 1:
            raise SettingsError(f"workers is {workers}; at least 1 is wanted")
        self._ray, self._owned = _connect(address, workers)
        cores = int(self._ray.cluster_resources().get("CPU", 0))
        if cores < workers:
            self.close()
            raise SettingsError(f"the Ray cluster has {cores} cores, {workers} workers are wanted")
        self._trainer = self._ray.remote(num_cpus=1, max_restarts=0)(Trainer)
        self._make_share = self._ray.put(make_share)
        self._count = workers
        self._compiles, self._unstarted = True, 0
        self._seats: list[_Seat] = []
        self._last: tuple[Work, Any] | None = None

    @property
    def actors(self) -> list[Any]:
        """Handles of the trainers."""
        return [seat.actor for seat in self._seats]

    def train(self, work: Work, clients: Sequence[int], seeds: Sequence[int]) -> Trained:
        """See Engine. Whatever interrupts it ends the trainers; the next block begins with new ones."""
        done = Trained.blank(len(clients), width(work.params))
        try:
            if clients:
                self._open()
                self._run(work, done, [int(each) for each in clients], [int(each) for each in seeds])
        except BaseException:
            self._leave()
            raise
        return done

    def close(self) -> None:
        """See Engine."""
        self._leave()
        if self._owned:
            self._ray.shutdown()

    def _open(self) -> None:
        """Trainers; that each has the kernel, or none uses it."""
        if self._seats:
            return
        self._seats = [self._seat() for _ in range(self._count)]
        try:
            found = self._ray.get([seat.starting for seat in self._seats], timeout=START_SECONDS)
        except self._ray.exceptions.GetTimeoutError as error:
            raise LinkError(
                f"the Ray cluster did not start {self._count} trainers in {START_SECONDS:g} s"
            ) from error
        except self._ray.exceptions.RayActorError as error:
            raise SettingsError(f"a Ray trainer did not start: {error}", remedy="see Ray's logs") from error
        self._compiles = all(found)
        for seat in self._seats:
            seat.starting = None

    def _leave(self) -> None:
        for seat in getattr(self, "_seats", []):
            self._ray.kill(seat.actor)
        self._seats, self._last = [], None

    def _seat(self) -> _Seat:
        actor = self._trainer.remote(self._make_share)
        return _Seat(actor, actor.compiles.remote())

    def _stored(self, work: Work) -> Any:
        """A reference to this work in the object store, the same for all its blocks."""
        if self._last is None or self._last[0] is not work:
            self._last = (work, self._ray.put(work))
        return self._last[1]

    def _run(self, work: Work, done: Trained, clients: list[int], seeds: list[int]) -> None:
        """Until each client has a row or has failed."""
        stored, compiled = self._stored(work), self._compiles and unable(work) is None
        tasks = min(TASKS * self._count, len(clients) // FEWEST)
        waiting = deque(_parts(len(clients), max(tasks, self._count)))
        suspects: set[int] = set()
        self._unstarted = 0
        while True:
            for seat in self._seats:
                while waiting and seat.starting is None and _has_room(seat, waiting[0], suspects):
                    places = waiting.popleft()
                    given = [clients[place] for place in places], [seeds[place] for place in places]
                    seat.tasks.append((places, seat.actor.train.remote(stored, compiled, *given)))
            if not waiting and not any(seat.tasks for seat in self._seats):
                return
            for seat in self._ready():
                try:
                    self._hear(seat, done)
                except self._ray.exceptions.RayTaskError:
                    raise  # of the work, not of the cluster
                except self._ray.exceptions.RayError as error:
                    waiting.extendleft(reversed(self._replace(seat, done, clients, suspects, error)))

    def _ready(self) -> list[_Seat]:
        """Seats that have something to say. LinkError when nobody works and nobody starts."""
        awaited = {seat.awaited(): seat for seat in self._seats if seat.starting is not None or seat.tasks}
        working = any(seat.tasks for seat in self._seats)
        ready, _ = self._ray.wait(list(awaited), timeout=None if working else START_SECONDS)
        if not ready:
            raise LinkError(f"the Ray cluster started no trainer in {START_SECONDS:g} s")
        return [awaited[each] for each in ready]

    def _hear(self, seat: _Seat, done: Trained) -> None:
        heard = self._ray.get(seat.awaited())
        if seat.starting is None:
            done.put(seat.tasks.popleft()[0], heard)
        else:
            seat.starting = None

    def _replace(
        self, seat: _Seat, done: Trained, clients: list[int], suspects: set[int], error: Exception
    ) -> list[list[int]]:
        """A new trainer for one that died. What is to be trained again: those it was at, each alone, and the rest."""
        if seat.starting is not None:
            self._unstarted += 1
            if self._unstarted > STARTS:
                raise LinkError(f"the Ray cluster's trainers do not start any more: {error}") from error
        again = [places for places, _ in seat.tasks]
        if again:
            first = again.pop(0)
            if suspects.issuperset(first):
                [place] = first
                done.failed[place] = (
                    f"the Ray trainer of client {clients[place]} ended twice: {type(error).__name__}"
                )
            else:
                suspects.update(first)
                again = [[place] for place in first] + again
        self._ray.kill(seat.actor)
        self._seats[self._seats.index(seat)] = self._seat()
        return again


def _has_room(seat: _Seat, places: list[int], suspects: set[int]) -> bool:
    """Whether a trainer may be given this too. A suspect has one for itself: who is done may not have been heard yet
    when the next one ends the trainer, and would be blamed for it.
    """
    if not seat.tasks:
        return True
    alone = suspects.issuperset(places) or suspects.issuperset(seat.tasks[-1][0])
    return len(seat.tasks) < AHEAD and not alone


def _parts(count: int, parts: int) -> list[list[int]]:
    """The places 0 … count − 1 in up to `parts` runs of about equal length."""
    size = -(-count // parts)
    return [list(range(start, min(start + size, count))) for start in range(0, count, size)]


def _connect(address: str | None, workers: int) -> tuple[Any, bool]:
    """(ray, whether this connection is ours to end). Nothing is reported to anybody."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else it warns of what will change
    try:
        import ray
    except ImportError as error:
        raise SettingsError("Ray is not installed", remedy="pip install 'fedlite[sim]'") from error
    if ray.is_initialized():
        return ray, False
    own = {"address": "local", "num_cpus": workers, "include_dashboard": False}
    try:
        ray.init(
            **(own if address is None else {"address": address}),
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise SettingsError(f"no Ray cluster at {address or 'this machine'}: {error}") from error
    return ray, True
