"""A simulated crew's rounds by the virtual clock: who is asked, whose update counts, what it took.

That is decided before anybody trains. What a client sends is then as large as what was sent in the round before.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from fedlite.apps.settings import JobSettings
from fedlite.budget import budget_bytes
from fedlite.errors import QuorumError
from fedlite.ledger.store import Snapshot
from fedlite.virtual.clock import Outcome
from fedlite.virtual.schedule import STEP, Schedule, fleet_row

MOST_ATTEMPTS = 60  # at a round, with STEP seconds between them: an hour

Sizes = Callable[[Sequence[int]], Sequence[int]]


@dataclass(frozen=True)
class Plan:
    """A round before it is trained: `train` in the order asked, those of them whose update is `late`, why each of
    the `dropped` is, and the round's figures for its `row`.
    """

    train: list[int]
    late: frozenset[int]
    dropped: dict[int, str]
    row: dict[str, Any]


@dataclass
class Timed:
    """A schedule with a job's settings; `sizes` are the sample counts of clients."""

    schedule: Schedule
    settings: JobSettings
    sizes: Sizes
    _update_bytes: dict[int, float] = field(default_factory=dict)  # by budget

    def __post_init__(self) -> None:
        if self.settings.round_time:
            _ = self._budgets

    def budget(self, client: int) -> int:
        """Bytes of its report that a client's own link bears in --round-time; 0 where that is not given."""
        if not self.settings.round_time:
            return 0
        return self._budgets[self.schedule.devices.of(client).name]

    @cached_property
    def _budgets(self) -> dict[str, int]:
        """By kind of device; SettingsError for one whose link carries no report."""
        settings = self.settings
        return {
            kind.name: budget_bytes(
                settings.uplink_budget, f"{kind.uplink_bits_per_second / 1e3:.3f}kbit/s", settings.round_time
            )
            for kind in self.schedule.devices.profiles
        }

    def resume(self, last: Snapshot | None) -> None:
        """Go on after this round."""
        if last is not None and "fleet" in last.metrics:
            fleet = last.metrics["fleet"]
            self.schedule.now = float(fleet["now"])
            self.schedule.busy = {int(client): until for client, until in fleet.get("busy", {}).items()}
            self._update_bytes = {
                int(budget): float(size) for budget, size in fleet.get("update_bytes", {}).items()
            }

    def learn(self, clients: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
        """What updates weigh: the mean of a round's, by budget. Gives all that is known, as a round's row keeps it."""
        sent = dict[int, list[float]]()
        for each in clients.values():
            if each["bytes_up"]:
                sent.setdefault(int(each.get("uplink_budget", 0)), []).append(each["bytes_up"])
        self._update_bytes |= {budget: sum(some) / len(some) for budget, some in sent.items()}
        return {str(budget): size for budget, size in self._update_bytes.items()}

    def choose(self, clients: int, round_num: int, attempt: int = 0) -> list[int]:
        """Some of the clients that are there, more than the cohort if so many are to be asked.

        QuorumError if so few as the quorum are not there in a week.
        """
        settings = self.settings
        size = round((settings.cohort or clients) * settings.over_selection)
        return self.schedule.draw(
            clients, size, settings.seed, round_num, quorum=settings.quorum, attempt=attempt
        )

    def plan(self, round_num: int, clients: int, asked: Sequence[int], bytes_down: Sizes, limit: int) -> Plan:
        """What becomes of the round; an update has at most `limit` bytes, in the first round as many.

        A round that misses its quorum costs what it costs and is begun again a minute later, with others of the
        `clients`; `row` has the sums. QuorumError, with the reasons, after MOST_ATTEMPTS.
        """
        row: dict[str, Any] = {}
        for attempt in range(MOST_ATTEMPTS):
            if attempt:
                self.schedule.wait(STEP)
                asked = self.choose(clients, round_num, attempt)
            samples = self.sizes(asked)
            outcome = self._play(round_num, attempt, asked, samples, bytes_down(asked), limit)
            row = _sum(row, fleet_row(outcome, self.schedule.devices))
            dropped = self.schedule.reasons(outcome, asked, samples)
            if len(outcome.counted) >= self.settings.quorum:
                late = frozenset(outcome.late)
                train = [client for client in asked if client in late or client not in dropped]
                busy = {str(client): until for client, until in self.schedule.busy.items()}
                return Plan(train, late, dropped, {"fleet": row | ({"busy": busy} if busy else {})})
        why = "; ".join(f"{count} times: {reason}" for reason, count in Counter(dropped.values()).items())
        raise QuorumError(
            f"round {round_num} was begun {MOST_ATTEMPTS} times; at last {len(outcome.counted)} of {len(asked)} "
            f"clients were done in time, {self.settings.quorum} wanted. {why}",
            remedy="lower --quorum, raise --deadline-seconds, or make the --availability milder",
        )

    def _expected(self, client: int, limit: int) -> int:
        """Bytes of a client's update, as far as is known."""
        budget = self.budget(client) or self.settings.budget
        return round(min(limit, self._update_bytes.get(budget, budget or limit)))

    def _play(
        self,
        round_num: int,
        attempt: int,
        asked: Sequence[int],
        samples: Sequence[int],
        bytes_down: Sequence[int],
        limit: int,
    ) -> Outcome:
        return self.schedule.play(
            round_num,
            asked,
            samples=samples,
            bytes_down=bytes_down,
            bytes_up=[self._expected(client, limit) for client in asked],
            wanted=self.settings.cohort or len(asked),
            deadline=self.settings.deadline_seconds,
            attempt=attempt,
        )


def _sum(before: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of a round's attempts as one row's: sums, but for the time it is, and what is no number."""
    if not before:
        return dict(row)
    summed = {
        key: before[key] + value
        for key, value in row.items()
        if key != "now" and isinstance(value, int | float)
    }
    kinds = {
        name: {
            key: sum(each["kinds"].get(name, {}).get(key, 0) for each in (before, row))
            for key in ("asked", "counted")
        }
        for name in sorted({*before["kinds"], *row["kinds"]})
    }
    return {**row, **summed, "kinds": kinds, "attempts": before.get("attempts", 1) + 1}
