"""One step for the whole update: levels are small integers, most of them zero, made to be entropy coded.

A weight is `level · step`, moved towards where the weights of that level really lie. Small weights fall into a dead
zone around zero: at equal bytes that is nearer to the update than finer steps without one (Sullivan 1996, §IV).
What the dead zone takes from an update's length is given back by a longer step, so that what is read is as long in the
update's direction as the update is, as EDEN's scale does (Vargaftik 2022, §3).
Tensors that are small or have one dimension get an eighth of the step: they are few and matter more.
"""

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fedlite.compress.layout import Layout, Tensor
from fedlite.compress.planes import Plane, Planes, levels_of
from fedlite.compress.slots import Buffer, Chance
from fedlite.compress.sums import products, squares
from fedlite.errors import CodecError, SettingsError
from fedlite.types import Array

TOP = 32767
FINER = 8  # steps of small tensors in one of the others
_HEAD = struct.Struct("<f3B")  # step, and where weights of level 1, 2 and above lie
_SHIFTS = 3
GRID = 2.0**-20  # what exact steps, and their eighths, are multiples of
_FAR = 256  # parts of a step
_BLOCK = (
    1 << 16
)  # weights that are looked at together: they stay in the cache, and what is found in them is small
_PARTS = 1 << 16  # of a step, when means are taken
_PASSES, _COARSE = 1.25, 4.0  # of the largest weight, and deviations: more than passing asks, and less
_LONGEST = 1.5  # so that feedback of what was lost dies out, however little is read
_LEAST, _MOST = 2.0**-120, 2.0**112  # of a step: levels times it, and an eighth of it, are normal and finite


@dataclass(frozen=True)
class Step:
    """Serializer: 7 bytes, two for each weight, two for each statistic (the upper half of its float32).

    The step is `deviations` (0 < … ≤ 64) root mean squares of the matrices' weights (of all, where there is no
    matrix), up to 4 of them but so that the largest weight passes; what is nearer to zero than `dead_zone` (0.5 … 1)
    steps is zero. Neither is known to the decoder.

    An `exact` one has a power of two for its step and weights at whole multiples of it (an eighth of it, in small
    tensors): sums of updates are then exact in float32, and can be coded as one (`fedlite.downlink`). `fixed` is the
    step itself, where it is known.
    """

    deviations: float = 2.0
    dead_zone: float = 0.6
    exact: bool = False
    fixed: float = 0.0
    key: ClassVar[str] = "step"

    def __post_init__(self) -> None:
        if not 0 < self.deviations <= 64:
            raise SettingsError(f"a step of {self.deviations} deviations is not in (0, 64]")
        if not 0.5 <= self.dead_zone <= 1:
            raise SettingsError(f"a dead zone of {self.dead_zone} steps is not in 0.5 … 1")
        if not 0 <= self.fixed <= _MOST:
            raise SettingsError(f"a step of {self.fixed} is not in 0 … {_MOST:g}")

    @property
    def passes(self) -> float:
        """Of the largest weight: a step up to which it passes the dead zone."""
        return min(_PASSES, 0.99 / self.dead_zone)

    def planes(self, layout: Layout) -> Planes:
        """Head, levels, statistics."""
        return (Plane(_HEAD.size), levels_of(layout.tensors, wide=True), Plane(2 * layout.statistics))

    def dump(self, weights: Array, statistics: Array, layout: Layout, chance: Chance) -> bytes:
        """The body."""
        sums = _squares(weights, layout)
        step = self.fixed or self._step(sums, _peaks(weights, layout), layout)
        found, shifts = self._found(weights, layout, step)
        if self.exact:
            shifts = [_FAR // 2] * _SHIFTS
        else:
            step = _lengthened(step, shifts, weights, found, sum(sums))
        levels = np.zeros(layout.weights, "<i2")
        levels[found.places] = found.levels
        return b"".join((_HEAD.pack(step, *shifts), levels.tobytes(), halves(statistics).tobytes()))

    def load(self, body: Buffer, layout: Layout) -> tuple[Array, Array]:
        """(weights, statistics); CodecError for a step or a statistic that `dump` never writes."""
        step, *shifts = _HEAD.unpack_from(body)
        if not (step == 0 or _LEAST <= step <= _MOST):
            raise CodecError(f"payload holds a step of {step}, 0 or {_LEAST:g} to {_MOST:g} expected")
        levels = np.frombuffer(body, "<i2", layout.weights, _HEAD.size)
        statistics = whole(np.frombuffer(body, "<u2", layout.statistics, _HEAD.size + 2 * layout.weights))
        if levels.min(initial=0) < -TOP:
            raise CodecError(f"payload holds the level {-TOP - 1}; levels are -{TOP} to {TOP}")
        if not np.isfinite(statistics).all():
            raise CodecError("payload holds a statistic that is NaN or infinite")
        weights = np.zeros(layout.weights, np.float32)
        for begin in range(0, layout.weights, _BLOCK):
            places = begin + np.flatnonzero(levels[begin : begin + _BLOCK] != 0)
            weights[places] = _Found(places, levels[places], layout).read(step, shifts)
        return weights, statistics

    def _step(self, sums: tuple[float, float], peaks: tuple[float, float], layout: Layout) -> float:
        """A float32."""
        large = _large(layout)
        count = sum(span.stop - span.start for span in large) or layout.weights
        kind = 0 if large else 1
        step = self.deviations * math.sqrt(sums[kind] / max(count, 1))
        reach = max(1.0, self.deviations / _COARSE) * peaks[kind]
        step = float(np.float32(min(step, self.passes * reach, _MOST)))
        if self.exact and step > 0:
            power = 2.0 ** round(math.log2(step))
            return min(max(power / 2 if power * self.dead_zone > reach else power, GRID * FINER), _MOST)
        return 0.0 if step < _LEAST else step

    def _found(self, weights: Array, layout: Layout, step: float) -> tuple["_Found", list[int]]:
        """Levels that are not zero, and where weights of the first ones lie, in 256ths of a step."""
        if step == 0:
            return _Found(np.zeros(0, np.int64), np.zeros(0, np.int16), layout), [0] * _SHIFTS
        away = np.float32(1 - self.dead_zone)
        places, ratios = [np.zeros(0, np.int64)], [np.zeros(0, np.float32)]
        for begin, end, finer in _blocks(layout):
            with np.errstate(
                over="ignore"
            ):  # of a small tensor's, where the matrices' are tiny: they are cut
                ratio = np.abs(weights[begin:end] * np.float32(1 / step))
                ratio *= np.float32(finer)
            some = np.flatnonzero(ratio + away >= 1)
            places.append(some + begin)
            ratios.append(ratio[some])
        place, far = np.concatenate(places), np.concatenate(ratios)
        np.minimum(far, np.float32(TOP), out=far)
        sizes = (far + away).astype(np.int16)
        levels = np.where(weights[place] < 0, -sizes, sizes)
        return _Found(place, levels, layout), _shifts(sizes, far - sizes)


@dataclass(frozen=True, eq=False)
class _Found:
    """The levels that are not zero, and where they are."""

    places: NDArray[np.int64]
    levels: NDArray[np.int16]
    layout: Layout

    def read(self, step: float, shifts: list[int]) -> Array:
        """What they stand for."""
        table = _values(step, shifts, int(np.abs(self.levels).max(initial=_SHIFTS)))
        values: Array = table[self.levels]
        for span in _small(self.layout):
            begin, end = np.searchsorted(self.places, (span.start, span.stop))
            values[begin:end] /= FINER
        return values


def _shifts(sizes: NDArray[np.int16], rest: Array) -> list[int]:
    """Where weights of levels of these sizes lie, by how much of a step more they are: the mean of each kind.

    Added are whole 65536ths, which is exact in any order.
    """
    kind = np.minimum(sizes, _SHIFTS) - 1
    parts = np.bincount(kind, np.rint(rest * np.float32(_PARTS)), _SHIFTS)
    means = parts / np.maximum(np.bincount(kind, minlength=_SHIFTS) * _PARTS, 1)
    return [int(each) for each in np.clip(np.rint((means + 0.5) * _FAR), 0, _FAR - 1)]


def _lengthened(step: float, shifts: list[int], weights: Array, found: _Found, square: float) -> float:
    """The step by which what is read has the update's length in its direction: at most half as long again."""
    product = products(weights[found.places], found.read(step, shifts))
    if not 0 < product < square:
        return step
    return min(float(np.float32(step * min(square / product, _LONGEST))), _MOST)


def _values(step: float, shifts: list[int], top: int) -> Array:
    """The weight of each level up to `top` ≥ 3; those of negative ones at negative indices."""
    sizes = np.arange(top + 1, dtype=np.float32)
    sizes[1:] += np.float32(shifts[-1] / _FAR - 0.5)
    for place, shift in enumerate(shifts, 1):
        sizes[place] = place + shift / _FAR - 0.5
    sizes *= np.float32(step)
    return np.concatenate([sizes, -sizes[:0:-1]])


def halves(values: Array) -> NDArray[np.uint16]:
    """The upper 16 bits of float32, rounded to nearest; the largest stay finite. (bfloat16)"""
    bits = values.astype("<f4").view("<u4").astype(np.uint64)
    upper = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where((upper & 0x7FFF) > 0x7F7F, (upper & 0x8000) | 0x7F7F, upper).astype("<u2")


def whole(upper: NDArray[np.uint16]) -> Array:
    """The float32 with these upper 16 bits and zeros below."""
    return (upper.astype(np.uint32) << np.uint32(16)).view(np.float32)


def _squares(weights: Array, layout: Layout) -> tuple[float, float]:
    """The sums of the matrices' squares and of all others'."""
    others = [weights[span] for tensor, span in _spans(layout) if not tensor.is_matrix]
    large = (weights[span] for span in _large(layout))
    return squares(large), squares([np.concatenate(others)] if others else [])


def _peaks(weights: Array, layout: Layout) -> tuple[float, float]:
    """The largest magnitudes of the matrices and of all others."""
    found = [0.0, 0.0]
    for tensor, span in _spans(layout):
        part, kind = weights[span], 0 if tensor.is_matrix else 1
        found[kind] = max(found[kind], float(part.max()), -float(part.min()))
    return found[0], found[1]


def _spans(layout: Layout) -> list[tuple[Tensor, slice]]:
    ends = np.cumsum(layout.sizes).tolist()
    return [(t, slice(end - t.live, end)) for t, end in zip(layout.tensors, ends, strict=True)]


def _blocks(layout: Layout) -> Iterator[tuple[int, int, int]]:
    """(begin, end, FINER or 1) of weights that are looked at together, so that they stay in the cache."""
    whole = not _small(layout)
    for tensor, span in _spans(layout):
        for begin in range(span.start, span.stop, _BLOCK):
            yield begin, min(begin + _BLOCK, span.stop), 1 if whole or tensor.is_matrix else FINER


def _large(layout: Layout) -> list[slice]:
    return [span for tensor, span in _spans(layout) if tensor.is_matrix]


def _small(layout: Layout) -> list[slice]:
    """Of tensors with the finer step; none, if there is no matrix beside them."""
    small = [span for tensor, span in _spans(layout) if not tensor.is_matrix]
    return small if len(small) < len(layout.tensors) else []
