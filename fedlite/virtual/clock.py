"""The virtual clock: a round as discrete events, so that its seconds, bytes and joules are a real fleet's.

What is computed here is when things would have happened; the learning itself is done elsewhere and as fast as
it can. Events carry their time, and the queue outlives a round: an asynchronous server can take them one by one.
"""

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import NamedTuple

import numpy as np

from fedlite.errors import SettingsError
from fedlite.virtual.devices import Cost
from fedlite.virtual.traces import DAY, Trace


class Kind(IntEnum):
    """What happens to a client; at equal times, arrivals come first."""

    ARRIVED = 0  # its update is at the server
    FAILED = 1  # it broke off its work
    LEFT = 2  # it went away while it worked


class Event(NamedTuple):
    """Ordered by time in virtual seconds, then kind, then client: never by the order of asking."""

    time: float
    kind: Kind
    client: int


@dataclass(frozen=True)
class Visit:
    """A client that is asked for an update, and what will come in its way.

    `slowdown` ≥ 1 stretches its computing, `fails_at` in [0, 1) is the part of its time after which it fails (inf:
    not at all), `stays` the seconds until it leaves (0: it is not there).
    """

    client: int
    cost: Cost
    slowdown: float = 1.0
    fails_at: float = math.inf
    stays: float = math.inf

    @property
    def slowed(self) -> Cost:
        """The cost with the slowdown in it."""
        if self.slowdown == 1:
            return self.cost
        seconds, joules = self.cost.seconds_compute, self.cost.joules_compute
        return replace(
            self.cost, seconds_compute=seconds * self.slowdown, joules_compute=joules * self.slowdown
        )

    def end(self, asked: float) -> Event:
        """How it ends when it is asked at `asked` seconds."""
        needed = self.slowed.seconds
        works = min(needed, needed * self.fails_at if self.fails_at < 1 else math.inf)
        if self.stays < works:
            return Event(asked + self.stays, Kind.LEFT, self.client)
        return Event(asked + works, Kind.FAILED if works < needed else Kind.ARRIVED, self.client)


@dataclass(frozen=True)
class Spent:
    """What was used up: bytes over the network, joules on devices."""

    bytes_down: int = 0
    bytes_up: int = 0
    joules: float = 0.0

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(
            self.bytes_down + other.bytes_down,
            self.bytes_up + other.bytes_up,
            self.joules + other.joules,
        )


def spent(cost: Cost, seconds: float) -> Spent:
    """What a client has used up `seconds` after it was asked: whole phases, and its part of the one it is in."""
    if seconds >= cost.seconds:  # not left to the rounding of its parts
        return Spent(cost.bytes_down, cost.bytes_up, cost.energy_joules)
    down = _part(seconds, cost.seconds_down)
    compute = _part(seconds - cost.seconds_down, cost.seconds_compute)
    up = _part(seconds - cost.seconds_down - cost.seconds_compute, cost.seconds_up)
    joules = down * cost.joules_down + compute * cost.joules_compute + up * cost.joules_up
    return Spent(int(down * cost.bytes_down), int(up * cost.bytes_up), joules)


def _part(done: float, whole: float) -> float:
    """The part of a phase that is over, 0 … 1."""
    if done >= whole:
        return 1.0
    return done / whole if done > 0 else 0.0


@dataclass
class Timeline:
    """Events to come, in order of time; `now` never goes back."""

    now: float = 0.0
    _heap: list[Event] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, event: Event) -> None:
        """Put an event in. SettingsError for one that lies in the past."""
        if not event.time >= self.now:
            raise SettingsError(f"an event at {event.time:g} s cannot be added at {self.now:g} s")
        heapq.heappush(self._heap, event)

    def next(self, before: float = math.inf) -> Event | None:
        """Take out the next event that is not after `before`, and move `now` to it; None if there is none."""
        if not self._heap or self._heap[0].time > before:
            return None
        event = heapq.heappop(self._heap)
        self.now = event.time
        return event

    def rest(self) -> list[Event]:
        """What is still to come, in order; it stays in."""
        return sorted(self._heap)


@dataclass(frozen=True)
class Outcome:
    """A round on the virtual clock. Clients are in the order in which it happened to them.

    `counted` arrived in time, `late` arrive after the round ended, `failed` break off and `left` go away, in the round
    or after it, `absent` were not there when asked, `unfit` have too little memory. `spent` is what the round causes on
    all of them: who is late finishes for nothing, as on a real fleet; absent and unfit clients spend nothing.
    `waited` are the seconds before `began` in which too few were there; `busy` says until when those are at work who
    still are when the round ends.
    """

    counted: tuple[int, ...]
    late: tuple[int, ...]
    failed: tuple[int, ...]
    left: tuple[int, ...]
    absent: tuple[int, ...]
    unfit: tuple[int, ...]
    began: float
    seconds: float
    spent: Spent
    waited: float = 0.0
    busy: Mapping[int, float] = field(default_factory=dict)

    @property
    def ended(self) -> float:
        """When the next round can begin, in virtual seconds."""
        return self.began + self.seconds


def visits(
    trace: Trace, clients: Sequence[int], costs: Sequence[Cost], round_num: int, now: float
) -> list[Visit]:
    """What will come in the way of these clients, asked at `now` in this round."""
    drawn = np.asarray(clients, dtype=np.int64)
    slow, fails = trace.slowdown_many(drawn, round_num), trace.fails_at_many(drawn, round_num)
    found = [
        Visit(client, costs[place], float(slow[place]), float(fails[place]), math.inf)
        for place, client in enumerate(clients)
    ]
    longest = max((visit.slowed.seconds for visit in found if visit.cost.fits), default=0.0)
    stays = trace.stays_many(drawn, now, min(max(longest, 1.0), 7 * DAY))
    return [replace(visit, stays=float(each)) for visit, each in zip(found, stays, strict=True)]


def run_round(
    asked: Sequence[Visit], *, wanted: int, deadline: float = math.inf, began: float = 0.0
) -> Outcome:
    """Ask these clients at `began`; over when `wanted` ≥ 1 have arrived, nobody is left, or `deadline` seconds
    have passed: an update that arrives at that very moment counts.

    Asking more clients than are wanted takes the first to arrive. The order of `asked` has no influence.
    SettingsError for a client asked twice, or limits that no round can keep.
    """
    by_client = {visit.client: visit for visit in asked}
    if len(by_client) < len(asked):
        raise SettingsError(f"{len(asked)} visits are of {len(by_client)} clients; each can be asked once")
    if wanted < 1 or not deadline > 0:
        raise SettingsError(
            f"{wanted} updates wanted in {deadline:g} s; at least 1, and more than 0 s, needed"
        )
    unfit = [client for client, visit in by_client.items() if not visit.cost.fits]
    absent = [client for client, visit in by_client.items() if visit.cost.fits and not visit.stays > 0]
    ends = {client: by_client[client].end(0.0) for client in by_client.keys() - {*unfit, *absent}}
    timeline = Timeline()
    for event in ends.values():
        timeline.add(event)
    happened: dict[Kind, list[int]] = {kind: [] for kind in Kind}
    while len(happened[Kind.ARRIVED]) < wanted and (next_event := timeline.next(deadline)):
        happened[next_event.kind].append(next_event.client)
    given_up = len(happened[Kind.ARRIVED]) < wanted and len(timeline) > 0
    rest: dict[Kind, list[int]] = {kind: [] for kind in Kind}
    for event in timeline.rest():
        rest[event.kind].append(event.client)
    used = [spent(by_client[client].slowed, ends[client].time) for client in sorted(ends)]
    return Outcome(
        counted=tuple(happened[Kind.ARRIVED]),
        late=tuple(rest[Kind.ARRIVED]),
        failed=(*happened[Kind.FAILED], *rest[Kind.FAILED]),
        left=(*happened[Kind.LEFT], *rest[Kind.LEFT]),
        absent=tuple(sorted(absent)),
        unfit=tuple(sorted(unfit)),
        began=began,
        seconds=deadline if given_up else timeline.now,
        spent=sum(used, Spent()),
        busy={event.client: began + event.time for event in timeline.rest()},
    )
