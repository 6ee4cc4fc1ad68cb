"""Fixed point in a ring: whole numbers modulo 2^k whose sums are the sums of what they stand for.

For sums that are taken of numbers nobody can read: masks added modulo 2^k vanish in the sum. All clients have the same
step and the same clip, so large that the sum of them all fits. (Bonawitz 2017, §4; Q = ⌊(2^(k−1) − 1) / clients⌋)
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedlite.compress.layout import Layout
from fedlite.compress.planes import Plane, Planes, levels_of
from fedlite.compress.slots import Buffer, Chance
from fedlite.errors import CodecError, SettingsError
from fedlite.types import Array

STATISTIC_STEP = 2.0**-16
_STATISTIC_BITS = 32
_BLOCK = 1 << 16


@dataclass(frozen=True)
class Ring:
    """Serializer: `bits` (16 or 32) for each weight at this `step`, 32 for each statistic at 2^-16; two's complement.

    `clients`: of how many at most a sum is taken. Levels are cut to ±⌊(2^(bits − 1) − 1) / clients⌋. Rounds to nearest,
    ties to even; with `stochastic`, up or down at random so that the mean is unbiased.
    """

    bits: int
    step: float
    clients: int = 1
    stochastic: bool = False

    def __post_init__(self) -> None:
        if not (isinstance(self.bits, int) and self.bits in (16, 32)):
            raise SettingsError(f"a ring of {self.bits} bits; 16 and 32 are possible")
        if not 2.0**-100 <= self.step <= 2.0**90:
            raise SettingsError(f"a step of {self.step} is not in 2^-100 … 2^90")
        if not (isinstance(self.clients, int) and 1 <= self.clients <= 2 ** (self.bits - 1) - 1):
            raise SettingsError(f"sums of {self.clients} clients do not fit in {self.bits} bits")

    @property
    def key(self) -> str:
        """With everything that must be the same in a sum."""
        return f"ring:{self.bits}:{float(self.step)!r}:{self.clients}"

    def planes(self, layout: Layout) -> Planes:
        """Levels, statistics."""
        wide = Plane(4 * layout.weights)
        levels = levels_of(layout.tensors, wide=True) if self.bits == 16 else wide
        return (levels, Plane(4 * layout.statistics))

    def dump(self, weights: Array, statistics: Array, layout: Layout, chance: Chance) -> bytes:
        """The body."""
        if self.stochastic and chance is None:
            raise SettingsError("stochastic rounding needs a generator")
        chance = chance if self.stochastic else None
        parts = (
            _levels(weights, self.step, self._limit(self.bits), chance).astype(f"<i{self.bits // 8}"),
            _levels(statistics, STATISTIC_STEP, self._limit(_STATISTIC_BITS), chance).astype("<i4"),
        )
        return b"".join(part.tobytes() for part in parts)

    def load(self, body: Buffer, layout: Layout) -> tuple[Array, Array]:
        """(weights, statistics) of a body of that size; CodecError for a level beyond the clip."""
        return self.read(body, layout)

    def read(self, body: Buffer, layout: Layout, summands: int = 1) -> tuple[Array, Array]:
        """The sum of the updates whose bodies, number by number modulo 2^bits, sum to this one.

        CodecError for what no `summands` ≤ clients bodies sum to.
        """
        if not 1 <= summands <= self.clients:
            raise SettingsError(f"a sum of {summands} bodies; it was made for 1 to {self.clients}")
        levels = np.frombuffer(body, f"<i{self.bits // 8}", layout.weights)
        measured = np.frombuffer(body, "<i4", layout.statistics, layout.weights * self.bits // 8)
        for each, bits in ((levels, self.bits), (measured, _STATISTIC_BITS)):
            limit = summands * self._limit(bits)
            if each.size and (each.min() < -limit or each.max() > limit):
                raise CodecError(f"payload holds a level beyond ±{limit}")
        return _values(levels, self.step), _values(measured, STATISTIC_STEP)

    def _limit(self, bits: int) -> int:
        return int((2 ** (bits - 1) - 1) // self.clients)


def _values(levels: NDArray[np.integer], step: float) -> Array:
    """What levels stand for: products in float64, block by block, since they are twice as large as what is read."""
    found = np.empty(len(levels), np.float32)
    for begin in range(0, len(levels), _BLOCK):
        part = slice(begin, begin + _BLOCK)
        found[part] = levels[part] * np.float64(step)
    return found


def _levels(values: Array, step: float, limit: int, chance: Chance) -> NDArray[np.float64]:
    ratio = np.clip(values.astype(np.float64) / step, -limit, limit)
    if chance is None:
        return np.rint(ratio)
    return np.clip(np.floor(ratio + chance.random(ratio.size)), -limit, limit)
