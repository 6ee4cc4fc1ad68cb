"""Float32, bit for bit: the whole model, and the yardstick of the other serializers."""

from dataclasses import dataclass

import numpy as np

from fedlite.compress.layout import Layout
from fedlite.compress.planes import Plane, Planes
from fedlite.compress.slots import Buffer
from fedlite.errors import CodecError
from fedlite.types import Array


@dataclass(frozen=True)
class Float32:
    """Serializer: four bytes per value, as four planes (all first bytes, all second bytes, …).

    Signs and exponents then stand together, which is what a byte compressor can find. Where not `planar`, the values
    are as memory holds them: for where nothing travels and time counts.
    """

    planar: bool = True

    @property
    def key(self) -> str:
        """float32, or plain without planes."""
        return "float32" if self.planar else "plain"

    def planes(self, layout: Layout) -> Planes:
        """Four bytes per value."""
        return (Plane(4 * (layout.weights + layout.statistics)),)

    def dump(
        self, weights: Array, statistics: Array, layout: Layout, chance: np.random.Generator | None
    ) -> bytes:
        """The byte planes of weights and then statistics, lowest byte first."""
        values = np.concatenate([weights, statistics]).astype("<f4", copy=False)
        if not self.planar:
            return values.tobytes()
        return values.view(np.uint8).reshape(-1, 4).T.tobytes()

    def load(self, body: Buffer, layout: Layout) -> tuple[Array, Array]:
        """(weights, statistics) of a body of exactly that size; CodecError if not finite."""
        if self.planar:
            planes = np.frombuffer(body, np.uint8).reshape(4, -1)
            values = np.ascontiguousarray(planes.T).view("<f4").reshape(-1).astype(np.float32, copy=False)
        else:
            values = np.frombuffer(body, "<f4").astype(np.float32)  # a copy: writable
        if not np.isfinite(values).all():
            raise CodecError("payload holds NaN or infinity")
        return values[: layout.weights], values[layout.weights :]
