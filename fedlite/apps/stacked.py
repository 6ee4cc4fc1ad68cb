"""A simulated cohort as a crew: rounds in this process, without messages, block by block of stacked clients.

What counts, what is dropped and what is owed is as over a grid, and so are the numbers: a client's report is what
fedlite.apps.client would have sent, byte for byte in size, and is read as fedlite.apps.door would have read it.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from threading import Event
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fedlite import aggregate
from fedlite.apps.cohort import TOO_LATE, Stopped, Tally, check_quorum
from fedlite.apps.offer import NOTHING_HELD, Manifest
from fedlite.apps.payloads import Payloads
from fedlite.apps.settings import JobSettings
from fedlite.compress.codec import Codec, codec_by_name
from fedlite.errors import SettingsError
from fedlite.ledger.store import Ledger
from fedlite.rounds import Combined, Model, Rule, Streaming, sample
from fedlite.seeds import derive
from fedlite.tensors import LARGEST
from fedlite.types import Array, Result
from fedlite.uplink import clear_size, rounded
from fedlite.virtual.coding import Coded, code_rows
from fedlite.virtual.engines.base import Engine, Work
from fedlite.virtual.grid import FIRST_NODE
from fedlite.virtual.kernel.reduce import add_rows, largest_rows
from fedlite.virtual.owed import Owed
from fedlite.virtual.rows import Trained, from_row, learned, width

MOST_AT_ONCE = 256  # clients in a block
_ROWS_IN_FLIGHT = 5  # of a client in a block: update, owed, decoded, residual, and room to compute
_TELL_SECONDS = 0.5
_STATE_FILE = "clients.state"


class Watcher(Protocol):
    """Who is told how far a round has come."""

    def status(self, text: str) -> None:
        """One line."""


def name_of(client: int) -> str:
    """A virtual client's name: the node it would be on a grid."""
    return str(client + FIRST_NODE)


@dataclass
class Stacked:
    """The crew of `clients` virtual clients.

    `engine_of` says who trains, asked once with the first round's work and clients. `memory` is in bytes: half of
    it for what clients owe between rounds, beyond which it lies on disk in `folder`, and half for a block.
    """

    settings: JobSettings
    ledger: Ledger
    clients: int
    engine_of: Callable[[Work, Sequence[int]], Engine]
    watcher: Watcher
    stop: Event
    folder: Path
    memory: int
    threads: int = 1
    _engine: Engine | None = None
    _owed: Owed | None = None

    def __post_init__(self) -> None:
        settings = self.settings
        for name, size in (("cohort", settings.cohort), ("quorum", settings.quorum)):
            if size > self.clients:
                raise SettingsError(f"--{name} is {size}, but there are {self.clients} clients")

    def choose(self, round_num: int) -> Sequence[int]:
        """See Crew: some of all the clients."""
        size = self.settings.cohort or self.clients
        chosen = round(size * self.settings.over_selection)
        return sample(range(self.clients), chosen, self.settings.seed, round_num)

    def collect(
        self, chosen: Sequence[int], manifest: Manifest, model: Model, rule: Rule
    ) -> tuple[Combined, Tally]:
        """See Crew. Remembers what clients owe only when all of it is done."""
        work = Work(manifest.model, model.held.params, model.held.masks, manifest.settings)
        if self._engine is None:
            self._engine = self.engine_of(work, chosen)
        if self._owed is None:
            self._owed = self._open_owed(work, model.round_num)
        gathering = _Gathering(self, self._engine, self._owed, work, manifest, model, list(chosen))
        if isinstance(rule, Streaming):
            combined = rule.conclude(model.params, model.state, gathering.total())
        else:
            combined = rule.combine(manifest.round_num, model.params, model.state, gathering.results())
        gathering.settle()
        return combined, gathering.tally

    def keep(self, round_num: int) -> None:
        """Keep what clients owe after this round in the folder, for those who go on."""
        if self._owed is not None:
            self._owed.save(self.folder / _STATE_FILE, round_num)

    def __enter__(self) -> "Stacked":
        return self

    def __exit__(self, *_: object) -> None:
        """End what was started."""
        if self._engine is not None:
            self._engine.close()
        if self._owed is not None:
            self._owed.close()

    def block(self, work: Work) -> int:
        """Clients at a time. SettingsError if memory does not suffice for one."""
        each = _ROWS_IN_FLIGHT * width(work.params) * 4
        if self.memory // 2 < each:
            raise SettingsError(
                f"one client of this model takes {each / 2**20:.1f} MiB, half of --memory-gb is "
                f"{self.memory / 2**21:.1f} MiB",
                remedy="raise --memory-gb, or train a smaller model",
            )
        return min(MOST_AT_ONCE, self.memory // 2 // each)

    def _open_owed(self, work: Work, round_num: int) -> Owed:
        owed = Owed.empty(width(work.params), self.memory // 2, self.folder)
        if round_num and not owed.load(self.folder / _STATE_FILE, round_num):
            self.watcher.status("the last run was cut off: what clients held and owed is forgotten")
        return owed


@dataclass(frozen=True, eq=False)
class _Block:
    """Clients whose results count: `rows` are as decoded."""

    clients: list[int]
    rows: Array
    counts: NDArray[np.int64]
    metrics: list[dict[str, float]]
    bytes_up: list[int]


@dataclass
class _Gathering:
    """One round on its way; `tally` fills."""

    crew: Stacked
    engine: Engine
    owed: Owed
    work: Work
    manifest: Manifest
    model: Model
    chosen: list[int]
    tally: Tally = field(default_factory=Tally)
    counted: list[int] = field(default_factory=list)
    _residuals: list[tuple[list[int], Array | None]] = field(default_factory=list)
    _lost: list[tuple[list[int], Array]] = field(default_factory=list)

    def total(self) -> aggregate.Total:
        """The weighted sum of the results."""
        like, metrics = self.work.params, dict[str, tuple[float, int]]()
        flat, weight = np.zeros(width(like)), 0
        for block in self._blocks():
            add_rows(flat, block.rows, block.counts.astype(np.float64), self.crew.threads)
            for count, measured in zip(block.counts.tolist(), block.metrics, strict=True):
                weight += count
                for name, value in measured.items():
                    total, examples = metrics.get(name, (0.0, 0))
                    metrics[name] = (total + count * value, examples + count)
        means = tuple((name, *pair) for name, pair in metrics.items())
        return aggregate.Total(from_row(flat, like), weight, self.tally.count, means)

    def results(self) -> Iterator[Result]:
        """The results one by one, for a rule that wants to see them."""
        for block in self._blocks():
            for place, client in enumerate(block.clients):
                update = from_row(block.rows[place], self.work.params)
                count = int(block.counts[place])
                yield Result(name_of(client), update, count, block.metrics[place], block.bytes_up[place])

    def settle(self) -> None:
        """Remember what each client owes from now on."""
        for clients, residual in self._residuals:
            self.owed.settle(clients, residual)
        for clients, updates in self._lost:
            self.owed.lose(clients, updates, self._learned)
        self.owed.holds.update(dict.fromkeys(self.counted, self.model.held.number))

    def _blocks(self) -> Iterator[_Block]:
        size, began, told = self.crew.block(self.work), time.monotonic(), 0.0
        for begin in range(0, len(self.chosen), size):
            if self.crew.stop.is_set():
                raise Stopped
            block = self._play(self.chosen[begin : begin + size])
            if block.clients:
                yield block
            now = time.monotonic()
            if now - told > _TELL_SECONDS and (done := begin + size) < len(self.chosen):
                told = now
                speed = done / max(now - began, 1e-9)
                self.crew.watcher.status(
                    f"round {self.manifest.round_num}: {done} of {len(self.chosen)} clients, {speed:,.0f} a second"
                )
        check_quorum(self.tally, len(self.chosen), self.crew.settings.quorum)

    def _play(self, clients: list[int]) -> _Block:
        """Train a block; code and read what of it counts."""
        seeds = [
            derive(self.manifest.seed, "client", self.manifest.round_num, name_of(each)) for each in clients
        ]
        for client in clients:
            down = len(self._payloads.of(self.owed.holds.get(client, NOTHING_HELD)))
            self.tally.clients[name_of(client)] = {"bytes_down": down, "bytes_up": 0}
        done = self.engine.train(self.work, clients, seeds)
        well = self._well(clients, done)
        counting, late = well[: self._wanted], well[self._wanted :]
        self._lose([clients[place] for place in late], done.updates[late])
        return self._code(clients, seeds, done, counting)

    @property
    def _wanted(self) -> int:
        """How many more results count."""
        whole = self.crew.settings.cohort or len(self.chosen)
        return min(whole, len(self.chosen)) - self.tally.count

    def _well(self, clients: list[int], done: Trained) -> list[int]:
        """Places of those who have something to send; the others are dropped by name."""
        most = self.crew.settings.max_examples
        largest = largest_rows(done.updates, self.crew.threads)
        for place in np.flatnonzero(~(largest <= LARGEST)).tolist():
            done.failed.setdefault(place, _DIVERGED)
        for place in np.flatnonzero(done.counts > most).tolist():
            done.failed.setdefault(place, f"example count is {done.counts[place]}, 1 to {most} believed")
        for place, why in done.failed.items():
            self.tally.dropped[name_of(clients[place])] = why
        return [place for place in range(len(clients)) if place not in done.failed]

    def _lose(self, clients: list[int], updates: Array) -> None:
        """These have trained for nothing."""
        for client in clients:
            self.tally.dropped[name_of(client)] = TOO_LATE
        if clients:
            self._lost.append((clients, updates))

    def _code(self, clients: list[int], seeds: list[int], done: Trained, places: list[int]) -> _Block:
        """Reports of those at `places`, as the server reads them."""
        whole = len(places) == len(clients)
        rows = done.updates if whole else done.updates[places]
        chosen = [clients[place] for place in places]
        coded = self._coded(chosen, rows, [seeds[place] for place in places])
        fine = coded.finite & (largest_rows(coded.decoded, self.crew.threads) <= LARGEST)
        if not fine.all():
            for place in np.flatnonzero(~fine).tolist():
                self.tally.dropped[name_of(chosen[place])] = _DIVERGED
            keep = np.flatnonzero(fine)
            places, chosen = [places[k] for k in keep], [chosen[k] for k in keep]
            residual = None if coded.residual is None else coded.residual[keep]
            coded = Coded(coded.sizes[keep], coded.decoded[keep], residual, fine[keep])
        self._residuals.append((chosen, coded.residual))
        metrics = [rounded({"loss": done.loss[p], "accuracy": done.accuracy[p]}) for p in places]
        counts = done.counts[places]
        bytes_up = [clear_size(each, size) for each, size in zip(metrics, coded.sizes.tolist(), strict=True)]
        for client, count, size in zip(chosen, counts.tolist(), bytes_up, strict=True):
            self.tally.clients[name_of(client)] |= {"bytes_up": size, "num_examples": count}
        self.counted += chosen
        self.tally.count += len(chosen)
        return _Block(chosen, coded.decoded, counts, metrics, bytes_up)

    def _coded(self, clients: list[int], rows: Array, seeds: list[int]) -> Coded:
        return code_rows(
            self._codec,
            rows,
            self.owed.of(clients),
            like=self.work.params,
            masks=self.work.masks,
            seeds=seeds,
            threads=self.crew.threads,
        )

    @cached_property
    def _codec(self) -> Codec:
        return codec_by_name(self.manifest.uplink_codec)

    @cached_property
    def _payloads(self) -> Payloads:
        return Payloads(self.crew.ledger, self.model.held)

    @cached_property
    def _learned(self) -> NDArray[np.bool_]:
        return learned(self.work.params)


_DIVERGED = f"update holds NaN, infinity or a value beyond ±{LARGEST:g}: training diverged"
