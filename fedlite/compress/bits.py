"""Numbers of chosen widths as bits, one after another, lowest bit first; many at once.

As with `fedlite.compress.entropy.Coder`, writer and reader have the same method, which returns what is coded.
"""

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fedlite.errors import CodecError

Ints = NDArray[np.int64]


class RawBits(Protocol):
    """One direction."""

    def take(self, widths: Ints, values: Ints | None) -> Ints:
        """Numbers of these widths: `values` when writing, what was written when reading."""


@dataclass
class BitWriter:
    """Collects numbers; `finish` makes bytes of them."""

    _parts: list[NDArray[np.uint8]] = field(default_factory=list)

    def take(self, widths: Ints, values: Ints | None) -> Ints:
        """Each value below 2^widths[i] ≤ 2^31."""
        assert values is not None
        owner, place = _spread(widths)
        self._parts.append((values.astype(np.uint32)[owner] >> place & np.uint32(1)).astype(np.uint8))
        return values

    def finish(self) -> bytes:
        """All bits; the last byte is filled with zeros."""
        return np.packbits(np.concatenate([np.zeros(0, np.uint8), *self._parts]), bitorder="little").tobytes()


class BitReader:
    """Reads what a BitWriter wrote, in the same order; memory is that of the numbers asked for."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._bytes = np.frombuffer(data, np.uint8)
        self._place = 0

    def take(self, widths: Ints, values: Ints | None = None) -> Ints:
        """Numbers of these widths; CodecError when there are not as many bits."""
        ends = np.cumsum(widths) + self._place
        end = int(ends[-1]) if len(ends) else self._place
        if end > 8 * self._bytes.size:
            raise CodecError(f"payload holds {8 * self._bytes.size} raw bits, at least {end} expected")
        found = np.zeros(len(widths), np.int64)
        if end == self._place:
            return found
        span = (int(widths.max()) + 14) // 8  # bytes that so many bits lie in, wherever they begin
        first = self._place // 8
        near = np.concatenate([self._bytes[first : (end + 7) // 8], np.zeros(span, np.uint8)])
        begins = ends - widths
        places = (begins >> 3) - first
        for each in range(span):
            found |= near[places + each].astype(np.int64) << 8 * each
        found >>= begins & 7
        self._place = end
        return found & ((np.int64(1) << widths) - 1)

    def close(self) -> None:
        """CodecError unless everything was read but the zeros that fill the last byte."""
        left = 8 * self._bytes.size - self._place
        if left >= 8 or (left and self._bytes[-1] >> (8 - left)):
            raise CodecError(f"payload holds {left} raw bits that nothing reads")


def _spread(widths: Ints) -> tuple[NDArray[np.intp], NDArray[np.uint32]]:
    """For each bit: whose it is, and which."""
    owner = np.repeat(np.arange(len(widths)), widths)
    begins = np.cumsum(widths) - widths
    return owner, (np.arange(len(owner)) - begins[owner]).astype(np.uint32)
