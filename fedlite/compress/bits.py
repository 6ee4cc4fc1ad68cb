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
    """Reads what a BitWriter wrote, in the same order."""

    def __init__(self, data: bytes) -> None:
        self._bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
        self._place = 0

    def take(self, widths: Ints, values: Ints | None = None) -> Ints:
        """Numbers of these widths; CodecError when there are not as many bits."""
        ends = np.cumsum(widths)
        total = int(ends[-1]) if len(ends) else 0
        bits = self._bits[self._place : self._place + total]
        if len(bits) < total:
            raise CodecError(
                f"payload holds {len(self._bits)} raw bits, at least {self._place + total} expected"
            )
        self._place += total
        owner, place = _spread(widths)
        return np.bincount(owner, bits.astype(np.uint32) << place, len(widths)).astype(np.int64)

    def close(self) -> None:
        """CodecError unless everything was read but the zeros that fill the last byte."""
        rest = self._bits[self._place :]
        if len(rest) >= 8 or rest.any():
            raise CodecError(f"payload holds {len(rest)} raw bits that nothing reads")


def _spread(widths: Ints) -> tuple[NDArray[np.intp], NDArray[np.uint32]]:
    """For each bit: whose it is, and which."""
    owner = np.repeat(np.arange(len(widths)), widths)
    begins = np.cumsum(widths) - widths
    return owner, (np.arange(len(owner)) - begins[owner]).astype(np.uint32)
