"""A simulated crew's rounds by the virtual clock: who is asked, whose update counts, what it took.

That is decided before anybody trains. What a client sends is then as large as what was sent in the round before.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedlite.apps.settings import JobSettings
from fedlite.virtual.schedule import Schedule, fleet_row


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
    sizes: Callable[[Sequence[int]], Sequence[int]]
    _update_bytes: float | None = None

    def resume(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Go on after these rounds."""
        if rows and "fleet" in rows[-1]:
            self.schedule.now = float(rows[-1]["fleet"]["now"])
            self.learn(rows[-1]["clients"])

    def learn(self, clients: Mapping[str, Mapping[str, float]]) -> None:
        """What updates weigh: the mean of a round's."""
        sent = [each["bytes_up"] for each in clients.values() if each["bytes_up"]]
        if sent:
            self._update_bytes = sum(sent) / len(sent)

    def choose(self, clients: int, round_num: int) -> list[int]:
        """Some of the clients that are there, more than the cohort if so many are to be asked.

        QuorumError if so few as the quorum are not there in a week.
        """
        settings = self.settings
        size = round((settings.cohort or clients) * settings.over_selection)
        return self.schedule.draw(clients, size, settings.seed, round_num, quorum=settings.quorum)

    def plan(self, round_num: int, asked: Sequence[int], bytes_down: Sequence[int], limit: int) -> Plan:
        """What becomes of the round; an update has at most `limit` bytes, in the first round as many."""
        settings, samples = self.settings, self.sizes(asked)
        outcome = self.schedule.play(
            round_num,
            asked,
            samples=samples,
            bytes_down=bytes_down,
            bytes_up=round(min(limit, self._update_bytes or limit)),
            wanted=settings.cohort or len(asked),
            deadline=settings.deadline_seconds,
        )
        dropped = self.schedule.reasons(outcome, asked, samples)
        late = frozenset(outcome.late)
        train = [client for client in asked if client in late or client not in dropped]
        return Plan(train, late, dropped, {"fleet": fleet_row(outcome, self.schedule.devices)})
