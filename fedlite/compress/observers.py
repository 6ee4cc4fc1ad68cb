"""What range a layer's inputs have, seen batch by batch: pure (state, batch) → state, and a range at the end.

    observer = observers.named("percentile:99.9")
    state = observer.start()
    for batch in batches:
        state = observer.add(state, batch)
    low, high = observer.finish(state)

A range that leaves out a few outliers has finer steps for the rest. (Krishnamoorthi 2018, §3.1.1; percentiles:
Wu et al. 2020, "Integer Quantization for Deep Learning Inference", §3.2)
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from fedlite.errors import DataError, SettingsError
from fedlite.seeds import generator
from fedlite.types import Array

CAPACITY = 2**16  # values that a percentile's observer holds: 256 KiB


@dataclass(frozen=True, eq=False)
class Seen:
    """What an observer knows after `count` values; `kept` are those that a percentile holds."""

    count: int = 0
    low: float = 0.0
    high: float = 0.0
    kept: Array = field(default_factory=lambda: np.zeros(0, np.float32))


class Observer(Protocol):
    """Range of values seen. `add` raises DataError for NaN or infinity, `finish` if nothing was seen."""

    def start(self) -> Seen:
        """Nothing seen."""

    def add(self, state: Seen, batch: Array) -> Seen:
        """After one more batch, of any shape."""

    def finish(self, state: Seen) -> tuple[float, float]:
        """(low, high), low ≤ high."""


class _Plain:
    def start(self) -> Seen:
        """Nothing seen."""
        return Seen()

    def finish(self, state: Seen) -> tuple[float, float]:
        """(low, high)."""
        _check_seen(state)
        return state.low, state.high


@dataclass(frozen=True)
class Extremes(_Plain):
    """The least and the greatest value."""

    def add(self, state: Seen, batch: Array) -> Seen:
        """See Observer."""
        low, high = _ends(batch)
        if not state.count:
            return Seen(batch.size, low, high)
        return Seen(state.count + batch.size, min(state.low, low), max(state.high, high))


@dataclass(frozen=True)
class Moving(_Plain):
    """Each batch's extremes move the range: range ← momentum · range + (1 − momentum) · batch's. (Jacob §3.1)

    The first batch's are taken as they are. SettingsError unless 0 ≤ momentum < 1.
    """

    momentum: float = 0.9

    def __post_init__(self) -> None:
        if not 0 <= self.momentum < 1:
            raise SettingsError(f"an observer's momentum is {self.momentum}; 0 to below 1 wanted")

    def add(self, state: Seen, batch: Array) -> Seen:
        """See Observer."""
        low, high = _ends(batch)
        old = self.momentum if state.count else 0.0
        low, high = old * state.low + (1 - old) * low, old * state.high + (1 - old) * high
        return Seen(state.count + batch.size, low, high)


@dataclass(frozen=True)
class Percentile:
    """From the (100 − q)th percentile to the q-th; SettingsError unless 50 < q ≤ 100.

    Memory is bounded: up to `capacity` values are held, so until then the percentiles are exact (linear between
    neighbours, as np.percentile). Beyond, they are those of a random sample of that many, drawn from a stream named
    by how many were seen: the same batches give the same range. Where it is empty, as for an input that is almost
    always 0, it is the extremes.
    """

    q: float = 99.9
    capacity: int = CAPACITY

    def __post_init__(self) -> None:
        if not 50 < self.q <= 100:
            raise SettingsError(f"an observer's percentile is {self.q}; above 50, up to 100 wanted")

    def start(self) -> Seen:
        """Nothing seen."""
        return Seen()

    def add(self, state: Seen, batch: Array) -> Seen:
        """See Observer."""
        wide = Extremes().add(state, batch)
        values, room = batch.astype(np.float32, copy=False).ravel(), self.capacity - len(state.kept)
        kept = np.concatenate([state.kept, values[:room]])
        if (rest := values[room:]).size:
            kept = _exchanged(kept, rest, wide.count)
        return replace(wide, kept=kept)

    def finish(self, state: Seen) -> tuple[float, float]:
        """See Observer."""
        _check_seen(state)
        low, high = (float(end) for end in np.percentile(state.kept, [100 - self.q, self.q]))
        return (low, high) if low < high else (state.low, state.high)


def _exchanged(kept: Array, values: Array, count: int) -> Array:
    """A sample of `count` values, the last of which are `values`: as many as fall to them take others' places."""
    random = generator(0, "percentile", count)
    drawn = min(values.size, int(random.binomial(len(kept), values.size / count)))
    kept[random.choice(len(kept), drawn, replace=False)] = random.choice(values, drawn, replace=False)
    return kept


_KINDS = {"minmax": Extremes, "average": Moving, "percentile": Percentile}


def named(text: str) -> Observer:
    """`minmax`, `average[:MOMENTUM]` or `percentile[:Q]`. SettingsError, with these, for another."""
    name, colon, number = text.partition(":")
    try:
        if name in _KINDS and bool(colon) <= (name != "minmax"):
            made: Observer = _KINDS[name](float(number)) if colon else _KINDS[name]()
            return made
    except ValueError:
        pass
    raise SettingsError(f"unknown observer {text!r}; there are minmax, average:0.9 and percentile:99.9")


def observe(observer: Observer, batches: Sequence[Array]) -> tuple[float, float]:
    """The range of some batches."""
    state = observer.start()
    for batch in batches:
        state = observer.add(state, batch)
    return observer.finish(state)


def _ends(batch: Array) -> tuple[float, float]:
    if not batch.size:
        raise DataError("an observer was given an empty batch")
    low, high = float(batch.min()), float(batch.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise DataError(
            "calibration met NaN or infinity", remedy="check the data, and that training converged"
        )
    return low, high


def _check_seen(state: Seen) -> None:
    if not state.count:
        raise DataError("there is no range: no calibration data were seen", remedy="give calibration samples")
