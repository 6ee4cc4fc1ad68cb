"""Signs: one bit for each weight, and for each tensor how large its weights are in the mean.

Only with error feedback does this converge. (Bernstein 2018; Karimireddy 2019, Alg. 1 with the scale |p|₁ / d)
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedlite.compress.layout import Layout
from fedlite.compress.pack import packed, unpacked
from fedlite.compress.planes import Plane, Planes
from fedlite.compress.slots import Buffer, Chance
from fedlite.compress.step import halves, whole
from fedlite.errors import CodecError
from fedlite.types import Array

_INFINITE = 0x7F80


@dataclass(frozen=True)
class Sign:
    """Serializer: 2 bytes for each tensor, its mean magnitude; a bit for each weight; 2 bytes for each statistic.

    The two bytes are the upper half of a float32. The bit is 1 for what is below zero; a tensor of mean 0 has none.
    """

    key: ClassVar[str] = "sign"

    def planes(self, layout: Layout) -> Planes:
        """Scales, bits, statistics."""
        return (
            Plane(2 * len(layout.tensors)),
            Plane((layout.weights + 7) // 8),
            Plane(2 * layout.statistics),
        )

    def dump(self, weights: Array, statistics: Array, layout: Layout, chance: Chance) -> bytes:
        """The body."""
        means = [np.abs(weights[span]).mean(dtype=np.float64) for span in layout.spans]
        scales = halves(np.array(means, np.float32))
        below = (weights < 0) & np.repeat(scales > 0, layout.sizes)
        return b"".join((scales.tobytes(), packed(below.view(np.uint8), 1), halves(statistics).tobytes()))

    def load(self, body: Buffer, layout: Layout) -> tuple[Array, Array]:
        """(weights, statistics) of a body of that size; CodecError for bytes `dump` never writes."""
        begin, size = 2 * len(layout.tensors), (layout.weights + 7) // 8
        scales = np.frombuffer(body, "<u2", len(layout.tensors))
        if (scales >= _INFINITE).any():
            raise CodecError("payload holds a scale that is negative, NaN or infinite")
        below = unpacked(memoryview(body)[begin : begin + size], layout.weights, 1)
        if any(scale == 0 and below[span].any() for scale, span in zip(scales, layout.spans, strict=True)):
            raise CodecError("payload holds signs of a tensor of zeros")
        weights = np.repeat(whole(scales), layout.sizes)
        np.negative(weights, out=weights, where=below.view(np.bool_))
        statistics = whole(np.frombuffer(body, "<u2", layout.statistics, begin + size))
        if not np.isfinite(statistics).all():
            raise CodecError("payload holds a statistic that is NaN or infinite")
        return weights, statistics
