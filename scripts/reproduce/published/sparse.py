"""DGC's top-k: the largest magnitudes and where they are. (Lin et al. 2018, §3)

One update is coded, so what DGC does over steps (momentum correction, accumulation) has no part here.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedlite.types import Array, Params, Update
from scripts.reproduce.published import bits
from scripts.reproduce.published.base import flat, float_bytes, floats, shaped


@dataclass(frozen=True)
class TopK:
    """A `share` of each tensor's values, or of all values together where `whole`.

    `indices` are 32 bits each (`plain`) or gaps in Golomb-Rice code (`gaps`); values are float32 or float16 (`dtype`).
    """

    share: float
    indices: Literal["plain", "gaps"] = "plain"
    dtype: Literal["<f4", "<f2"] = "<f4"
    whole: bool = False

    def encode(self, update: Update, seed: int) -> bytes:
        """Values, then where they are."""
        values, sizes = flat(update), self._sizes(update)
        starts = np.cumsum([0, *sizes[:-1]])
        parts = np.split(values, starts[1:])
        chosen = [
            start + largest(part, count_of(self.share, part.size))
            for start, part in zip(starts, parts, strict=True)
        ]
        places = np.concatenate(chosen)
        body = float_bytes(values[places], self.dtype)
        if self.indices == "plain":
            return body + places.astype("<u4").tobytes()
        return body + bits.pack_gaps(places, values.size)

    def decode(self, payload: bytes, like: Params, seed: int) -> dict[str, Array]:
        """Zeros but for what was sent."""
        total = sum(value.size for value in like.values())
        count = sum(count_of(self.share, size) for size in self._sizes(like))
        found = floats(payload, self.dtype, count)
        rest = payload[count * np.dtype(self.dtype).itemsize :]
        if self.indices == "plain":
            places = np.frombuffer(rest, "<u4").astype(np.int64)
        else:
            places = bits.unpack_gaps(rest, count, total)
        values = np.zeros(total, np.float32)
        values[places] = found
        return shaped(values, like)

    def _sizes(self, like: Params) -> list[int]:
        sizes = [value.size for value in like.values()]
        return [sum(sizes)] if self.whole else sizes


def count_of(share: float, size: int) -> int:
    """How many of a tensor's values are sent: at least one."""
    return min(size, max(1, round(share * size)))


def largest(values: Array, count: int) -> NDArray[np.int64]:
    """Where the `count` largest magnitudes are, rising."""
    return np.sort(np.argpartition(-np.abs(values), count - 1)[:count]).astype(np.int64)
