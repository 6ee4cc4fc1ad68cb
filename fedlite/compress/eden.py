"""EDEN: a rotated vector in 1 to 4 bits a weight, and one scale, so that the mean over rotations is the vector.

With one bit it is DRIVE. (Vargaftik 2021, Alg. 1 with the scale of Theorem 2; Vargaftik 2022, §3. Levels are Lloyd's
and Max's for the normal distribution: Max 1960, Table I.)
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedlite.compress.hadamard import Doubles, blocks, rotated, turned_back
from fedlite.compress.layout import Layout
from fedlite.compress.pack import packed, unpacked
from fedlite.compress.planes import Plane, Planes
from fedlite.compress.scramble import SEED_BYTES, draw_seed
from fedlite.compress.slots import Buffer, Chance
from fedlite.compress.step import halves, whole
from fedlite.errors import CodecError, SettingsError
from fedlite.types import Array

_POSITIVE = {
    1: (0.7980,),
    2: (0.4528, 1.510),
    3: (0.2451, 0.7560, 1.344, 2.152),
    4: (0.1284, 0.3881, 0.6568, 0.9424, 1.256, 1.618, 2.069, 2.733),
}
LEVELS = {bits: np.array([*(-x for x in half[::-1]), *half]) for bits, half in _POSITIVE.items()}
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Eden:
    """Serializer: a seed of 8 bytes, a float32 for each block, `bits` (1 … 4) for each coordinate, 2 bytes a statistic.

    A weight of zero among others does not stay zero: a codec refuses filters that leave zeros before it.
    """

    bits: int = 1

    def __post_init__(self) -> None:
        if not (isinstance(self.bits, int) and self.bits in LEVELS):
            raise SettingsError(f"{self.bits} bits a weight; EDEN has 1 to {max(LEVELS)}, a whole number")

    @property
    def key(self) -> str:
        """With the bits."""
        return f"eden:{self.bits}"

    def planes(self, layout: Layout) -> Planes:
        """Seed, scales, coordinates, statistics."""
        every = list(_blocks(layout))
        size = sum(coordinates for _, coordinates in every)
        return (
            Plane(SEED_BYTES),
            Plane(4 * len(every)),
            Plane((size * self.bits + 7) // 8),
            Plane(2 * layout.statistics),
        )

    def dump(self, weights: Array, statistics: Array, layout: Layout, chance: Chance) -> bytes:
        """The body."""
        seed, scales, parts, place = draw_seed(chance), list[float](), [np.zeros(0, np.uint8)], 0
        for span, coordinates in _blocks(layout):
            values = np.zeros(coordinates)
            values[: span.stop - span.start] = weights[span]
            scale, indices = self._coded(rotated(values, seed, place))
            scales.append(scale)
            parts.append(indices)
            place += coordinates
        numbers = np.minimum(np.array(scales), _LARGEST).astype("<f4")
        return b"".join(
            (seed, numbers.tobytes(), packed(np.concatenate(parts), self.bits), halves(statistics).tobytes())
        )

    def load(self, body: Buffer, layout: Layout) -> tuple[Array, Array]:
        """(weights, statistics) of a body of that size; CodecError for bytes `dump` never writes."""
        ends = np.cumsum([plane.size for plane in self.planes(layout)]).tolist()
        seed, scales = bytes(body[: ends[0]]), np.frombuffer(body[ends[0] : ends[1]], "<f4")
        if not (np.isfinite(scales) & ~np.signbit(scales)).all():
            raise CodecError("payload holds a scale that is negative, NaN or infinite")
        size = sum(coordinates for _, coordinates in _blocks(layout))
        indices = unpacked(memoryview(body)[ends[1] : ends[2]], size, self.bits)
        weights, place, levels = np.empty(layout.weights, np.float32), 0, LEVELS[self.bits]
        for scale, (span, coordinates) in zip(scales.tolist(), _blocks(layout), strict=True):
            some = indices[place : place + coordinates]
            if scale == 0 and some.any():
                raise CodecError("payload holds levels of a block of zeros")
            values = turned_back(levels[some], seed, place)[: span.stop - span.start]
            weights[span] = np.clip(values * scale, -_LARGEST, _LARGEST)
            place += coordinates
        statistics = whole(np.frombuffer(body[ends[2] :], "<u2"))
        if not np.isfinite(statistics).all():
            raise CodecError("payload holds a statistic that is NaN or infinite")
        return weights, statistics

    def _coded(self, values: Doubles) -> tuple[float, NDArray[np.uint8]]:
        """(scale, number of each coordinate's level)."""
        square = float(values @ values)
        levels = LEVELS[self.bits]
        if np.float32(min(square**0.5, _LARGEST)) == 0:
            return 0.0, np.zeros(len(values), np.uint8)
        between = (levels[1:] + levels[:-1]) / 2
        indices = np.searchsorted(between, values * (len(values) / square) ** 0.5).astype(np.uint8)
        scale = square / float(values @ levels[indices])
        if np.float32(min(scale, _LARGEST)) == 0:
            return 0.0, np.zeros(len(values), np.uint8)
        return scale, indices


def _blocks(layout: Layout) -> Iterator[tuple[slice, int]]:
    """(where its weights lie, coordinates) of every block."""
    for span in layout.spans:
        begin = span.start
        for weights, coordinates in blocks(span.stop - span.start):
            yield slice(begin, begin + weights), coordinates
            begin += weights
