"""When clients are there, and what goes wrong while they work: traces made from a seed, not held in memory.

Everything about a client at a time, or in a round, is computed from (seed, client, time or round) alone, so a
million clients cost nothing until they are asked about, and the answers do not depend on the order of asking.
Times are virtual seconds from the start of the run; clients are numbers from 0.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import count
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedlite import draws
from fedlite.draws import Bits, Reals
from fedlite.errors import SettingsError

Clients = NDArray[np.int64]
Flags = NDArray[np.bool_]

HOUR, DAY = 3600.0, 86400.0
FORMS = "always, diurnal, diurnal:ZONE_HOURS, churn:MTBF/MTTR, dropout:P, straggler:P,FACTOR"
DROPOUT = 0.08  # 6 to 10 % of selected devices drop out of a round (Bonawitz et al. 2019, §9)


class Presence(Protocol):
    """Whether clients are there."""

    def until(self, stream: Bits, clients: Clients, times: Reals) -> Reals:
        """For each client a time up to which it is surely there without a break; ≤ its time if it is not there."""


@dataclass(frozen=True)
class Always:
    """Every client, at any time."""

    def until(self, stream: Bits, clients: Clients, times: Reals) -> Reals:
        """See Presence."""
        return np.full(np.broadcast_shapes(clients.shape, times.shape), np.inf)


@dataclass(frozen=True)
class Diurnal:
    """Phones, which take part while they charge, idle and on Wi-Fi: most at night, some by day.

    Of a fleet in time zones `zone_hours` apart at most, about four times as many are there in the night as by
    day (Bonawitz et al. 2019, §9, of a US population). To give that, a phone charges three nights in four, from
    23:00 ± 1 h for 8 ± 1 h (normal, cut at two deviations), and any three hours of the day with probability 0.2:
    (1 − 0.8 · 0.25) / 0.2 = 4. These four numbers are chosen for the ratio, not measured. Time 0 is noon in
    the westernmost zone.
    """

    zone_hours: float = 3.0

    def until(self, stream: Bits, clients: Clients, times: Reals) -> Reals:
        """See Presence."""
        phone = draws.bits(stream, clients)
        local = times + 12 * HOUR + draws.uniform(phone, 0) * self.zone_hours * HOUR
        ends = _nap_end(draws.bits(phone, 1), local)
        for night in (np.floor(local / DAY) - 1, np.floor(local / DAY)):
            ends = np.maximum(ends, _night_end(draws.bits(phone, 2), night, local))
        return np.asarray(times + (ends - local), dtype=np.float64)


NIGHT_SHARE, NAP_SHARE, NAP_SECONDS = 0.75, 0.2, 3 * HOUR


def _night_end(phone: Bits, night: Reals, local: Reals) -> Reals:
    """When the charging of this night ends, or `local` where it is not going on."""
    own = draws.bits(phone, night.astype(np.int64))
    begins = night * DAY + (23 + np.clip(draws.normal(own, 0), -2, 2)) * HOUR
    ends = begins + (8 + np.clip(draws.normal(own, 1), -2, 2)) * HOUR
    charges = (draws.uniform(own, 2) < NIGHT_SHARE) & (begins <= local)
    return np.where(charges, np.maximum(ends, local), local)


def _nap_end(phone: Bits, local: Reals) -> Reals:
    """When the three hours that `local` falls in end, where the phone is there in them, else `local`.

    Each phone's hours are shifted by a draw of its own, so that they do not end together.
    """
    shift = draws.uniform(phone, -1) * NAP_SECONDS
    slot = np.floor((local + shift) / NAP_SECONDS)
    ends = (slot + 1) * NAP_SECONDS - shift
    return np.where(draws.uniform(phone, slot.astype(np.int64)) < NAP_SHARE, np.maximum(ends, local), local)


@dataclass(frozen=True)
class Churn:
    """Devices that break and are repaired: times between are exponential, of mean `mtbf` and `mttr` seconds > 0.

    Such a device is a two-state Markov chain, which looks the same if at the points of a Poisson process of rate
    1/mtbf + 1/mttr it is set anew, to working with probability mtbf / (mtbf + mttr), whatever it was
    (uniformization: Jensen 1953). So the state at a time needs the last point before it only, and is in
    equilibrium from the start.
    """

    mtbf: float
    mttr: float

    def until(self, stream: Bits, clients: Clients, times: Reals) -> Reals:
        """See Presence. The next point is where a working device may break."""
        device, at = np.broadcast_arrays(draws.bits(stream, clients), times)
        drawn, following = _points(device.ravel(), at.ravel() * self._rate)
        works = drawn.reshape(at.shape) < self.mtbf / (self.mtbf + self.mttr)
        return np.where(works, np.maximum(following.reshape(at.shape) / self._rate, at), at)

    @property
    def _rate(self) -> float:
        return 1 / self.mtbf + 1 / self.mttr


_PAST = 1e-6  # seconds after the end of a stay, to ask on the far side of it whatever the rounding
BLOCK = 2.0  # points of a Poisson process of rate 1 are drawn block by block of this length


def _points(phone: Bits, times: Reals) -> tuple[Reals, Reals]:
    """(the draw of the last point ≤ time, the next point) of a Poisson process of rate 1 per client."""
    before, after = np.full(times.shape, -np.inf), np.full(times.shape, np.inf)
    draw = np.zeros(times.shape)
    far = 0
    while len(unknown := np.flatnonzero(np.isinf(before))):
        for place, own, at, point in _block(phone, times, unknown, -far):
            last = point <= times[at]  # the latest so far: points come in order
            before[at[last]] = point[last]
            draw[at[last]] = draws.uniform(own[last], 2 * place + 1)
        far += 1
    far = 0
    while len(unknown := np.flatnonzero(np.isinf(after))):
        for _, _, at, point in _block(phone, times, unknown, far):
            coming = point > times[at]
            after[at[coming]] = np.minimum(after[at[coming]], point[coming])
        far += 1
    return draw, after


def _block(phone: Bits, times: Reals, at: Clients, step: int) -> Iterator[tuple[int, Bits, Clients, Reals]]:
    """The 1st, 2nd, … points of the block that lies `step` after that of the time of each client in `at`.

    Yields (place, the block's stream, who has so many, the points).
    """
    block = np.floor(times[at] / BLOCK) + step
    own, point, end = draws.bits(phone[at], block.astype(np.int64)), block * BLOCK, (block + 1) * BLOCK
    for place in count():
        point = point + draws.exponential(own, 2 * place)
        inside = point < end
        own, at, point, end = own[inside], at[inside], point[inside], end[inside]
        if not len(at):
            return
        yield place, own, at, point


@dataclass(frozen=True)
class Trace:
    """A fleet's behaviour. `dropout` is the chance that a client fails in a round it takes part in;
    `straggler_share` of clients per round compute `straggler_factor` times as long.
    """

    seed: int
    presence: Presence = Always()
    dropout: float = 0.0
    straggler_share: float = 0.0
    straggler_factor: float = 1.0

    def available(self, client: int, time: float) -> bool:
        """Whether a client is there at a time."""
        return bool(self.available_many(np.asarray(client), time))

    def available_many(self, clients: ArrayLike, time: ArrayLike) -> Flags:
        """Whether each client is there; shapes are broadcast."""
        times = np.asarray(time, dtype=np.float64)
        return np.asarray(self._until(np.asarray(clients, dtype=np.int64), times) > times, dtype=np.bool_)

    def stays_many(self, clients: ArrayLike, time: float, within: float = 7 * DAY) -> Reals:
        """Seconds until each client leaves: 0 if it is not there; those that stay for longer than `within` > 0 stay.

        Costs time for all the points in that time where a client might have left.
        """
        clients = np.asarray(clients, dtype=np.int64)
        ends = np.full(clients.shape, float(time))
        going = np.ones(clients.shape, dtype=np.bool_)
        while going.any():
            after = ends[going] + _PAST
            later = self._until(clients[going], after)
            grown = later > after
            ends[going] = np.where(grown, later, ends[going])
            going[going] = grown & (later < time + within)
        return np.asarray(np.where(ends < time + within, ends - time, np.inf), dtype=np.float64)

    def fails(self, client: int, round_num: int) -> bool:
        """Whether a client fails in a round."""
        return bool(np.isfinite(self.fails_at_many(np.asarray(client), round_num)))

    def fails_at_many(self, clients: ArrayLike, round_num: int) -> Reals:
        """The part of its work, in [0, 1), after which each client fails in this round; inf if it does not."""
        own = draws.bits(draws.bits(self._streams["dropout"], clients), round_num)
        part = draws.uniform(own, 1)
        return np.asarray(np.where(draws.uniform(own, 0) < self.dropout, part, np.inf), dtype=np.float64)

    def slowdown(self, client: int, round_num: int) -> float:
        """How many times as long as usual a client computes in a round."""
        return float(self.slowdown_many(np.asarray(client), round_num))

    def slowdown_many(self, clients: ArrayLike, round_num: int) -> Reals:
        """The same for many clients."""
        drawn = draws.uniform(draws.bits(self._streams["straggler"], clients), round_num)
        return np.where(drawn < self.straggler_share, self.straggler_factor, 1.0)

    def _until(self, clients: Clients, times: Reals) -> Reals:
        return self.presence.until(self._streams["presence"], clients, times)

    @cached_property
    def _streams(self) -> dict[str, Bits]:
        return {name: draws.stream(self.seed, "trace", name) for name in ("presence", "dropout", "straggler")}


def trace(spec: str, seed: int) -> Trace:
    """The trace that `always` or `diurnal+dropout:0.08+straggler:0.1,4` names: FORMS joined by `+`.

    `churn:3600/600`: on average an hour there, ten minutes away. `dropout` alone is 8 %. SettingsError, with
    what exists, for another form, a number out of range, or a form given twice.
    """
    made, seen = Trace(seed), set()
    for part in spec.split("+"):
        kind, _, argument = part.strip().partition(":")
        group = "presence" if kind in ("always", "diurnal", "churn") else kind
        if group in seen:
            raise SettingsError(f"{spec!r} says twice when clients are there, or repeats {kind!r}")
        seen.add(group)
        make = _MAKERS.get(kind)
        if make is None:
            raise SettingsError(f"there is no trace {part!r}; there are {FORMS}, joined by +")
        made = make(made, part, argument)
    return made


def _always(made: Trace, part: str, argument: str) -> Trace:
    _numbers(part, argument, ())
    return replace(made, presence=Always())


def _diurnal(made: Trace, part: str, argument: str) -> Trace:
    (hours,) = _numbers(part, argument or "3", ((0, 24),))
    return replace(made, presence=Diurnal(hours))


def _churn(made: Trace, part: str, argument: str) -> Trace:
    mtbf, mttr = _numbers(part, argument.replace("/", ",", 1), ((1, math.inf), (1, math.inf)))
    return replace(made, presence=Churn(mtbf, mttr))


def _dropout(made: Trace, part: str, argument: str) -> Trace:
    (share,) = _numbers(part, argument or str(DROPOUT), ((0, 1),))
    return replace(made, dropout=share)


def _straggler(made: Trace, part: str, argument: str) -> Trace:
    share, factor = _numbers(part, argument, ((0, 1), (1, math.inf)))
    return replace(made, straggler_share=share, straggler_factor=factor)


_MAKERS: dict[str, Callable[[Trace, str, str], Trace]] = {
    "always": _always,
    "diurnal": _diurnal,
    "churn": _churn,
    "dropout": _dropout,
    "straggler": _straggler,
}


def _numbers(part: str, text: str, ranges: tuple[tuple[float, float], ...]) -> list[float]:
    """As many finite numbers as there are ranges, each within its own."""
    try:
        values = [float(each) for each in text.split(",")] if text else []
    except ValueError:
        values = []
    fits = len(values) == len(ranges) and not (text and not values)
    if not fits or any(
        not (low <= value <= high and math.isfinite(value))
        for value, (low, high) in zip(values, ranges, strict=True)
    ):
        wanted = ", ".join(f"a number from {low:g} to {high:g}" for low, high in ranges) or "no number"
        raise SettingsError(f"{part!r} is not right: {wanted} wanted; the forms are {FORMS}")
    return values
