"""Half precision: 11 significant bits for weights, two bytes each. (IEEE 754 binary16)"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedlite.compress.layout import Layout
from fedlite.compress.planes import Plane, Planes
from fedlite.compress.slots import Buffer, Chance
from fedlite.errors import CodecError
from fedlite.types import Array

LARGEST = 65504.0


@dataclass(frozen=True)
class Float16:
    """Serializer: two bytes per weight, as two planes, low bytes first; four per statistic (these stay exact).

    Rounds to nearest, ties to even; below 2^-14 in steps of 2^-24. What is beyond ±65504 is cut to it.
    """

    key: ClassVar[str] = "float16"

    def planes(self, layout: Layout) -> Planes:
        """Low bytes, high bytes, statistics."""
        return (Plane(layout.weights), Plane(layout.weights), Plane(4 * layout.statistics))

    def dump(self, weights: Array, statistics: Array, layout: Layout, chance: Chance) -> bytes:
        """The body."""
        halves = np.clip(weights, -LARGEST, LARGEST).astype("<f2")
        return halves.view(np.uint8).reshape(-1, 2).T.tobytes() + statistics.astype("<f4").tobytes()

    def load(self, body: Buffer, layout: Layout) -> tuple[Array, Array]:
        """(weights, statistics) of a body of that size; CodecError if not finite."""
        split = 2 * layout.weights
        planes = np.frombuffer(body, np.uint8, split).reshape(2, -1)
        weights = np.ascontiguousarray(planes.T).view("<f2").reshape(-1).astype(np.float32)
        statistics = np.frombuffer(body, "<f4", layout.statistics, split).astype(np.float32)
        if not (np.isfinite(weights).all() and np.isfinite(statistics).all()):
            raise CodecError("payload holds NaN or infinity")
        return weights, statistics
