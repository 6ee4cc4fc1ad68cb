"""One round of stacked clients: trained block by block, coded, and read as the server reads what comes over a grid."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from threading import Event
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fedlite import aggregate
from fedlite.apps.cohort import TOO_LATE, Stopped, Tally, check_quorum
from fedlite.apps.offer import Manifest
from fedlite.apps.payloads import Payloads, Recent
from fedlite.apps.settings import JobSettings
from fedlite.apps.timed import Timed
from fedlite.budget import longest, recorded, told
from fedlite.compress.codec import Codec
from fedlite.compress.presets import codec_by_name
from fedlite.downlink import NOTHING_HELD
from fedlite.ledger.store import Ledger
from fedlite.rounds import Model
from fedlite.seeds import derive_each
from fedlite.tensors import LARGEST
from fedlite.types import Array, Result
from fedlite.uplink import FRESH_ROUNDS, clear_size, rounded
from fedlite.virtual.coding import Coded, code_rows
from fedlite.virtual.engines.base import Engine, Work
from fedlite.virtual.fitted import Budgets
from fedlite.virtual.grid import FIRST_NODE
from fedlite.virtual.kernel.build import available
from fedlite.virtual.kernel.reduce import add_rows, largest_rows
from fedlite.virtual.merging import summed
from fedlite.virtual.owed import Owed
from fedlite.virtual.rows import Trained, from_row, learned, width
from fedlite.virtual.staged import Staged

_TELL_SECONDS = 0.5


class Watcher(Protocol):
    """Who is told how far a round has come."""

    def status(self, text: str) -> None:
        """One line."""


def name_of(client: int) -> str:
    """A virtual client's name: the node it would be on a grid."""
    return str(client + FIRST_NODE)


def no_limit(client: int) -> int:
    """Of a client whose link is not known."""
    return 0


@dataclass(frozen=True, eq=False)
class _Block:
    """Clients whose results count: `rows` are as decoded."""

    clients: list[int]
    rows: Array
    counts: NDArray[np.int64]
    metrics: list[dict[str, float]]
    bytes_up: list[int]


@dataclass
class Gathering:
    """One round on its way, `most` clients at a time; `tally` fills."""

    settings: JobSettings
    ledger: Ledger
    watcher: Watcher
    stop: Event
    most: int
    threads: int
    engine: Engine
    owed: Owed
    work: Work
    manifest: Manifest
    model: Model
    chosen: list[int]
    staged: Staged
    recent: Recent
    tally: Tally = field(default_factory=Tally)
    counted: list[int] = field(default_factory=list)
    late: frozenset[int] = frozenset()  # of the chosen: they train for nothing
    own_budget: Callable[[int], int] = no_limit  # bytes of a client's report that its own link bears, 0: any

    def total(self) -> aggregate.Total:
        """The weighted sum of the results."""
        like, metrics = self.work.params, dict[str, tuple[float, int]]()
        flat, weight = np.zeros(width(like)), 0
        for block in self._blocks():
            add_rows(flat, block.rows, block.counts.astype(np.float64), self.threads)
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

    def follow(self, timed: Timed, clients: int) -> None:
        """Let the virtual clock say who of the chosen trains, and whose update is late; `clients` are there in all."""
        limit = self._codec.limit_bytes(self.work.params, masks=self.work.masks)
        plan = timed.plan(self.manifest.round_num, clients, self.chosen, self._bytes_down, limit)
        self.tally.dropped |= {name_of(client): why for client, why in plan.dropped.items()}
        self.tally.more |= plan.row
        self.chosen, self.late = plan.train, plan.late

    def settle(self) -> None:
        """Remember what each client owes from now on."""
        self.staged.settle(learned(self.work.params), self.manifest.round_num, self._since)
        self.owed.holds.update(dict.fromkeys(self.counted, self.model.held.number))

    def _blocks(self) -> Iterator[_Block]:
        began, told, done = time.monotonic(), 0.0, 0
        for begin in range(0, len(self.chosen), self.most):
            if self.stop.is_set():
                raise Stopped
            clients = self.chosen[begin : begin + self.most]
            yield from self._play(clients)
            now, done = time.monotonic(), done + len(clients)
            if now - told > _TELL_SECONDS and done < len(self.chosen):
                told = now
                speed = done / max(now - began, 1e-9)
                self.watcher.status(
                    f"round {self.manifest.round_num}: {done} of {len(self.chosen)} clients, {speed:,.0f} a second"
                )
        check_quorum(self.tally, len(self.tally.clients | self.tally.dropped), self.settings.quorum)

    def _play(self, clients: list[int]) -> Iterator[_Block]:
        """Train a block; code and read what of it counts. Where some of that cannot be sent, the next ones count."""
        seed, round_num = self.manifest.seed, self.manifest.round_num
        seeds = derive_each(map(name_of, clients), before=(seed, "client", round_num)).tolist()
        for client, down in zip(clients, self._bytes_down(clients), strict=True):
            self.tally.clients[name_of(client)] = {"bytes_down": down, "bytes_up": 0}
        done = self.engine.train(self.work, clients, seeds)
        well = self._well(clients, done)
        waiting = [place for place in well if clients[place] not in self.late]
        late = [place for place in well if clients[place] in self.late]
        while waiting and self._wanted > 0:
            some, waiting = waiting[: self._wanted], waiting[self._wanted :]
            block = self._code(clients, seeds, done, some)
            if block.clients:
                yield block
        late = sorted([*late, *waiting])
        self._lose([clients[place] for place in late], done.updates[late])

    def _bytes_down(self, clients: Sequence[int]) -> list[int]:
        held = [self.owed.holds.get(client, NOTHING_HELD) for client in clients]
        if available() is None:
            self._payloads.measure(held, partial(summed, threads=self.threads))
        return [self._payloads.size(each) for each in held]

    @property
    def _wanted(self) -> int:
        """How many more results count."""
        whole = self.settings.cohort or len(self.chosen)
        return min(whole, len(self.chosen)) - self.tally.count

    def _well(self, clients: list[int], done: Trained) -> list[int]:
        """Places of those who have something to send; the others are dropped by name."""
        most = self.settings.max_examples
        largest = largest_rows(done.updates, self.threads)
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
            self.tally.dropped.setdefault(name_of(client), TOO_LATE)
        if clients:
            self.staged.lost(clients, updates)

    def _code(self, clients: list[int], seeds: list[int], done: Trained, places: list[int]) -> _Block:
        """Reports of those at `places`, as the server reads them."""
        whole = len(places) == len(clients)
        rows = done.updates if whole else done.updates[places]
        chosen = [clients[place] for place in places]
        metrics = [rounded({"loss": done.loss[p], "accuracy": done.accuracy[p]}) for p in places]
        coded = self._coded(chosen, rows, [seeds[place] for place in places], metrics)
        if coded.deviations is not None:
            metrics = [
                each | told(step, self.own_budget(client)) if self._budget(client) else each
                for client, each, step in zip(chosen, metrics, coded.deviations.tolist(), strict=True)
            ]
        fine = coded.finite & (largest_rows(coded.decoded, self.threads) <= LARGEST)
        if not fine.all():
            for place in np.flatnonzero(~fine).tolist():
                self.tally.dropped[name_of(chosen[place])] = coded.failed.get(place, _DIVERGED)
            keep = np.flatnonzero(fine)
            places, chosen = [places[k] for k in keep], [chosen[k] for k in keep]
            metrics = [metrics[k] for k in keep]
            residual = None if coded.residual is None else coded.residual[keep]
            coded = Coded(coded.sizes[keep], coded.decoded[keep], residual, fine[keep])
        self.staged.counted(chosen, coded.residual)
        counts = done.counts[places]
        bytes_up = [clear_size(each, size) for each, size in zip(metrics, coded.sizes.tolist(), strict=True)]
        for client, count, size, each in zip(chosen, counts.tolist(), bytes_up, metrics, strict=True):
            choice = recorded(each, self.manifest.uplink_budget)
            self.tally.clients[name_of(client)] |= {"bytes_up": size, "num_examples": count, **choice}
        self.counted += chosen
        self.tally.count += len(chosen)
        return _Block(chosen, coded.decoded, counts, metrics, bytes_up)

    def _coded(
        self, clients: list[int], rows: Array, seeds: list[int], metrics: list[dict[str, float]]
    ) -> Coded:
        return code_rows(
            self._codec,
            rows,
            self.owed.of(clients, self._since),
            like=self.work.params,
            masks=self.work.masks,
            seeds=seeds,
            threads=self.threads,
            budgets=self._budgets(clients, metrics),
        )

    def _budget(self, client: int) -> int:
        """Most bytes of its report; 0: any."""
        return self.own_budget(client) or self.manifest.uplink_budget

    def _budgets(self, clients: list[int], metrics: list[dict[str, float]]) -> Budgets | None:
        """Those of a block, with the bytes of reports that are no payload; None where nobody has one."""
        most = np.array([self._budget(client) for client in clients], np.int64)
        if not most.any():
            return None
        pairs = zip(clients, metrics, strict=True)
        empty = [
            clear_size(rounded({**each, **longest(self.own_budget(client))}), 0) for client, each in pairs
        ]
        return Budgets(most, np.array(empty, np.int64))

    @property
    def _since(self) -> int:
        """The round from which on what was made is still owed."""
        return self.manifest.round_num - FRESH_ROUNDS

    @cached_property
    def _codec(self) -> Codec:
        return codec_by_name(self.manifest.uplink_codec)

    @cached_property
    def _payloads(self) -> Payloads:
        codec = codec_by_name(self.manifest.downlink_codec)
        return Payloads(self.ledger, self.model.held, codec, self.recent)


_DIVERGED = f"update holds NaN, infinity or a value beyond ±{LARGEST:g}: training diverged"
