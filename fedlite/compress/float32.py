"""Float32, bit for bit: the whole model, and the yardstick of the other serializers."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedlite.compress.layout import Layout
from fedlite.errors import CodecError
from fedlite.types import Array


@dataclass(frozen=True)
class Float32:
    """Serializer: four bytes per value, as four planes (all first bytes, all second bytes, …).

    Signs and exponents then stand together, which is what a byte compressor can find.
    """

    stage: ClassVar[int] = 0x22

    def size(self, layout: Layout) -> int:
        """Bytes `dump` writes for this layout."""
        return 4 * (layout.weights + layout.statistics)

    def dump(
        self, weights: Array, statistics: Array, layout: Layout, generator: np.random.Generator | None
    ) -> bytes:
        """The byte planes of weights and then statistics, lowest byte first."""
        values = np.concatenate([weights, statistics]).astype("<f4", copy=False)
        return values.view(np.uint8).reshape(-1, 4).T.tobytes()

    def load(self, body: bytes, layout: Layout) -> tuple[Array, Array]:
        """(weights, statistics) of a body of exactly `size(layout)` bytes; CodecError if not finite."""
        planes = np.frombuffer(body, np.uint8).reshape(4, -1)
        values = np.ascontiguousarray(planes.T).view("<f4").reshape(-1).astype(np.float32, copy=False)
        if not np.isfinite(values).all():
            raise CodecError("payload holds NaN or infinity")
        return values[: layout.weights], values[layout.weights :]
