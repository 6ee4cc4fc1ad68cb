"""When a simulated fleet does its rounds: who is there to be asked, who is done in time, and what it costs them.

Who counts is decided from sizes and rates before anybody trains, so that only updates that count are computed.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlite.errors import QuorumError, SettingsError
from fedlite.modules import module_of
from fedlite.seeds import derive
from fedlite.train_settings import TrainSettings
from fedlite.virtual.clock import Outcome, run_round, visits
from fedlite.virtual.devices import MIB, Cost, Fleet, Profile, cost, fleet
from fedlite.virtual.traces import DAY, Trace, trace
from fedlite.virtual.workload import Workload, workload

STEP = 60.0  # seconds between looks at who is there, while too few are
LONGEST_WAIT = 7 * DAY
_ATTEMPT = 2**32  # far from any round's number
CELLS = 200_000  # clients × times looked at together


@dataclass
class Schedule:
    """A fleet on the virtual clock.

    `now` is in virtual seconds since the run began, `busy` until when clients are at work that a round has left behind;
    set both when a run resumes.
    """

    devices: Fleet
    trace: Trace
    work: Workload
    now: float = 0.0
    busy: dict[int, float] = field(default_factory=dict)
    _waited: float = 0.0

    def draw(
        self, clients: int, size: int, seed: int, round_num: int, *, quorum: int = 1, attempt: int = 0
    ) -> list[int]:
        """`size` of `clients` clients that are there and not at work (fewer if there are no more), in the order drawn.

        Where all are there, these are those of `rounds.sample`. While fewer than `quorum` are there, `now` moves
        on. Another `attempt` ≥ 0 at a round draws others. QuorumError if it takes more than LONGEST_WAIT.
        """
        labels = (round_num, attempt) if attempt else (round_num,)
        order = partial(_random_order, derive(seed, "cohort", *labels), clients, size)
        found = self._there(order(), size)
        if len(found) < min(quorum, size):
            self.wait(self._until_there(clients, min(quorum, size)))
            found = self._there(order(), size)
        return found

    def wait(self, seconds: float) -> None:
        """Let time pass before the next round."""
        self.now, self._waited = self.now + seconds, self._waited + seconds

    def play(
        self,
        round_num: int,
        asked: Sequence[int],
        *,
        samples: Sequence[int],
        bytes_down: Sequence[int],
        bytes_up: Sequence[int],
        wanted: int,
        deadline: float,
        attempt: int = 0,
    ) -> Outcome:
        """What becomes of a round with these clients, asked `now`; moves `now` to its end.

        `samples`, `bytes_down` and `bytes_up` are by client, in the order asked; the last is what an update is expected
        to have. The round ends with `wanted` updates, after `deadline` seconds, or when nobody is left at work. What
        goes wrong is drawn anew for another `attempt`.
        SettingsError for a client asked twice, or limits that no round can keep.
        """
        kinds = self.devices.kinds(asked)
        costs = [
            self._cost(self.devices.profiles[kind], count, down, up)
            for kind, count, down, up in zip(kinds.tolist(), samples, bytes_down, bytes_up, strict=True)
        ]
        met = visits(self.trace, asked, costs, round_num + attempt * _ATTEMPT, self.now)
        outcome = run_round(met, wanted=wanted, deadline=deadline, began=self.now)
        outcome = replace(outcome, waited=self._waited)
        self.now, self._waited = outcome.ended, 0.0
        self.busy = {
            client: until for client, until in {**self.busy, **outcome.busy}.items() if until > self.now
        }
        return outcome

    def reasons(self, outcome: Outcome, asked: Sequence[int], samples: Sequence[int]) -> dict[int, str]:
        """Why each client that was asked and is not counted is not; arguments as for `play`."""
        told = {
            **dict.fromkeys(outcome.late, "was still at work when the round ended"),
            **dict.fromkeys(outcome.failed, "broke off its training"),
            **dict.fromkeys(outcome.left, "left while it was at work"),
            **dict.fromkeys(outcome.absent, "was not there"),
        }
        counts = dict(zip(asked, samples, strict=True)) if outcome.unfit else {}
        return told | {client: self._misfit(client, counts[client]) for client in outcome.unfit}

    def _there(self, order: Iterator[NDArray[np.int64]], size: int) -> list[int]:
        found: list[int] = []
        at_work = [client for client, until in self.busy.items() if until > self.now]
        for some in order:
            there = some[self.trace.available_many(some, self.now)]
            there = there[~np.isin(there, at_work)] if at_work else there
            found += there[: size - len(found)].tolist()
            if len(found) == size:
                break
        return found

    def _until_there(self, clients: int, wanted: int) -> float:
        """Seconds until `wanted` clients are there at once, in whole steps."""
        everyone, free = np.arange(clients)[:, np.newaxis], np.full((clients, 1), -np.inf)
        free[list(self.busy), 0] = list(self.busy.values())
        at_once = max(1, CELLS // clients)
        for first in range(1, round(LONGEST_WAIT / STEP) + 1, at_once):
            ahead = STEP * np.arange(first, first + at_once)
            at = self.now + ahead
            there = (self.trace.available_many(everyone, at) & (free <= at)).sum(axis=0)
            if (there >= wanted).any():
                return float(ahead[(there >= wanted).argmax()])
        raise QuorumError(
            f"{wanted} clients wanted; in {LONGEST_WAIT / DAY:g} virtual days so many of {clients} were never there"
        )

    def _cost(self, device: Profile, samples: int, bytes_down: int, bytes_up: int) -> Cost:
        return cost(
            device,
            flops=self.work.flops(samples),
            payload_up_bytes=bytes_up,
            payload_down_bytes=bytes_down,
            memory_bytes=self.work.memory(samples),
            operations=self.work.operations(samples),
        )

    def _misfit(self, client: int, samples: int) -> str:
        device = self.devices.of(client)
        needed, has = self.work.memory(samples), device.memory_bytes
        return f"needs {needed / MIB:.0f} MiB for training, a {device.name} has {has / MIB:.0f} MiB"


def fleet_row(outcome: Outcome, devices: Fleet) -> dict[str, Any]:
    """A round's virtual figures, as its row in the results holds them under "fleet".

    Times in virtual seconds, energy in joules; `slowest` is the kind of device that was at work for longest, and
    `kinds` says how many of each were asked and how many counted.
    """
    lost = {name: getattr(outcome, name) for name in ("late", "failed", "left", "absent", "unfit")}
    row: dict[str, Any] = {
        "now": outcome.ended,
        "seconds": outcome.seconds,
        "waited": outcome.waited,
        "joules": outcome.spent.joules,
        "bytes_down": outcome.spent.bytes_down,
        "bytes_up": outcome.spent.bytes_up,
    }
    row |= {name: len(clients) for name, clients in lost.items()}
    counted = _by_kind(outcome.counted, devices)
    asked = sum((_by_kind(clients, devices) for clients in lost.values()), counted)
    row["kinds"] = {name: {"asked": asked[name], "counted": counted[name]} for name in sorted(asked)}
    if last := (outcome.late or outcome.counted)[-1:]:
        row["slowest"] = devices.of(*last).name
    return row


def _by_kind(clients: Sequence[int], devices: Fleet) -> Counter[str]:
    """How many of these clients are of each kind."""
    if not clients:
        return Counter()
    return Counter(devices.profiles[kind].name for kind in devices.kinds(clients).tolist())


def open_schedule(
    devices: str,
    availability: str,
    *,
    model: str,
    input_shape: tuple[int, ...],
    settings: TrainSettings,
    seed: int,
) -> Schedule | None:
    """The schedule of a fleet as `devices.fleet` and `traces.trace` read them; None without devices.

    `model` is a ModelSpec as JSON. SettingsError for what they refuse, for a trace without devices, and for a
    model that no device of the fleet has the memory to train on a single sample.
    """
    if not devices:
        if availability not in ("", "always"):
            raise SettingsError(
                f"availability {availability!r} needs devices, whose time it is",
                remedy="name some, as in --devices pi4:0.7,phone:0.3",
            )
        return None
    kinds, behaviour = fleet(devices, seed), trace(availability or "always", seed)
    work = workload(module_of(model, settings.bits), input_shape, settings)
    if all(work.memory(1) > kind.memory_bytes for kind in kinds.profiles):
        has = ", ".join(f"{kind.name} {kind.memory_bytes / MIB:.0f} MiB" for kind in kinds.profiles)
        raise SettingsError(
            f"training needs at least {work.memory(1) / MIB:.0f} MiB; of this fleet: {has}",
            remedy="choose a smaller model, or devices with more memory",
        )
    return Schedule(kinds, behaviour, work)


def _random_order(seed: int, clients: int, first: int) -> Iterator[NDArray[np.int64]]:
    """All clients once, in an order drawn as it is needed; the `first` are those that a plain draw takes.

    Costs time for what is asked of it and not for `clients`, until half of them have been.
    """
    rng = np.random.default_rng(seed)
    chunk = rng.choice(clients, size=min(first, clients), replace=False)
    yield chunk
    seen = np.zeros(clients, np.bool_)
    count = 0
    while True:
        seen[chunk] = True
        count += len(chunk)
        if 2 * count >= clients:
            break
        drawn = rng.integers(clients, size=count)
        _, places = np.unique(drawn, return_index=True)
        chunk = drawn[np.sort(places)]
        chunk = chunk[~seen[chunk]]
        yield chunk
    yield rng.permutation(np.flatnonzero(~seen))
