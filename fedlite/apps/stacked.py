"""A simulated cohort as a crew: rounds in this process, without messages, block by block of stacked clients.

What counts, what is dropped and what is owed is as over a grid, and so are the numbers: a client's report is what
fedlite.apps.client would have sent, byte for byte in size, and is read as fedlite.apps.door would have read it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

from fedlite.apps.cohort import Tally
from fedlite.apps.gathering import Gathering, Watcher, no_limit
from fedlite.apps.offer import Manifest
from fedlite.apps.payloads import Recent
from fedlite.apps.settings import JobSettings
from fedlite.apps.timed import Timed
from fedlite.compress.presets import codec_by_name
from fedlite.errors import SettingsError
from fedlite.ledger.store import Ledger
from fedlite.rounds import Combined, Model, Rule, Streaming, sample
from fedlite.virtual.coding import memory_width
from fedlite.virtual.engines.base import Engine, Work
from fedlite.virtual.owed import Owed
from fedlite.virtual.rows import width
from fedlite.virtual.staged import Staged

AT_ONCE = 8  # clients in a block for each core, at least: so all are busy to its end
USUAL_BYTES = 64 * 2**20  # of updates in a block, if that is more
_ROWS_IN_FLIGHT = 5  # of a client in a block: update, owed, decoded, residual, and room to compute
_STATE_FILE = "clients.state"


@dataclass
class Stacked:
    """The crew of `clients` virtual clients.

    `engine_of` says who trains, asked once with the first round's work and clients. `memory` is in bytes: half of it
    for blocks, a quarter for what a round changes of what clients owe, and a quarter for what they owe between rounds;
    what is more lies on disk in `folder`. With `timed`, a virtual clock says who is there and who counts.
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
    timed: Timed | None = None
    _engine: Engine | None = None
    _done: Gathering | None = None  # the last round, until it is committed
    _owed: Owed | None = None
    _recent: Recent = field(default_factory=Recent)

    def __post_init__(self) -> None:
        settings = self.settings
        for name, size in (("cohort", settings.cohort), ("quorum", settings.quorum)):
            if size > self.clients:
                raise SettingsError(f"--{name} is {size}, but there are {self.clients} clients")

    def choose(self, round_num: int) -> Sequence[int]:
        """See Crew: some of all the clients, or of those that are there by the virtual clock."""
        self._settle(round_num - 1)
        if self.timed is not None:
            return self.timed.choose(self.clients, round_num)
        size = self.settings.cohort or self.clients
        chosen = round(size * self.settings.over_selection)
        return sample(range(self.clients), chosen, self.settings.seed, round_num)

    def collect(
        self, chosen: Sequence[int], manifest: Manifest, model: Model, rule: Rule
    ) -> tuple[Combined, Tally]:
        """See Crew. What clients owe changes once the round is committed."""
        work = Work(manifest.model, model.held.params, model.held.masks, manifest.settings)
        if self._engine is None:
            self._engine = self.engine_of(work, chosen)
            self.watcher.status(f"clients are trained by {self._engine.name}")
        if self._owed is None:
            self._owed = self._open_owed(work, model.round_num)
        gathering = Gathering(
            settings=self.settings,
            ledger=self.ledger,
            watcher=self.watcher,
            stop=self.stop,
            most=self._block(work),
            threads=self.threads,
            engine=self._engine,
            owed=self._owed,
            work=work,
            manifest=manifest,
            model=model,
            chosen=list(chosen),
            staged=Staged(self._owed, self.memory // 4),
            recent=self._recent,
            own_budget=self.timed.budget if self.timed is not None else no_limit,
        )
        if self.timed is not None:
            gathering.follow(self.timed, self.clients)
        if isinstance(rule, Streaming):
            combined = rule.conclude(model.params, model.state, gathering.total())
        else:
            combined = rule.combine(manifest.round_num, model.params, model.state, gathering.results())
        gathering.tally.more["engine"] = self._engine.name
        self._done = gathering
        if self.timed is not None:
            gathering.tally.more["fleet"]["update_bytes"] = self.timed.learn(gathering.tally.clients)
        return combined, gathering.tally

    def keep(self) -> None:
        """Keep what clients owe after the last committed round in the folder, for those who go on."""
        latest = self.ledger.latest()
        if self._owed is not None and latest is not None:
            self._settle(latest.round_num)
            self._owed.save(self.folder / _STATE_FILE, latest.round_num)

    def _settle(self, committed: int) -> None:
        """Clients owe what the last round left them once that is committed; of a round that is not, nothing."""
        if self._done is not None and self._done.manifest.round_num <= committed:
            self._done.settle()
        self._done = None

    def __enter__(self) -> "Stacked":
        return self

    def __exit__(self, *_: object) -> None:
        """End what was started."""
        if self._engine is not None:
            self._engine.close()
        if self._owed is not None:
            self._owed.close()

    def _block(self, work: Work) -> int:
        """Clients at a time. SettingsError if memory does not suffice for one."""
        each = (_ROWS_IN_FLIGHT * width(work.params) + 2 * self._memory_width(work)) * 4
        if self.memory // 2 < each:
            raise SettingsError(
                f"one client of this model takes {each / 2**20:.1f} MiB, half of --memory-gb is "
                f"{self.memory / 2**21:.1f} MiB",
                remedy="raise --memory-gb, or train a smaller model",
            )
        usual = max(AT_ONCE * self.threads, USUAL_BYTES // (width(work.params) * 4))
        return min(usual, self.memory // 2 // each)

    def _memory_width(self, work: Work) -> int:
        return memory_width(codec_by_name(self.settings.uplink_codec), work.params)

    def _open_owed(self, work: Work, round_num: int) -> Owed:
        floats = width(work.params) + self._memory_width(work)
        owed = Owed.empty(floats, self.memory // 4, self.folder)
        if round_num and not owed.load(self.folder / _STATE_FILE, round_num):
            self.watcher.status("the last run was cut off: what clients held and owed is forgotten")
        return owed
