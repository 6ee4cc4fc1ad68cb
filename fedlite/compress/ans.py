"""The compressor that knows what it codes: levels by `fedlite.compress.levels`, other bytes by how often each occurs.

Each plane of the body in turn: one byte that says how (0 as it is, 1 coded), then its bytes, behind their number as
a uint32 if they are coded. Coding is chosen where it is shorter, so there is a bound.
"""

import struct
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fedlite.compress import entropy, levels
from fedlite.compress.planes import Plane, Planes, size_of
from fedlite.compress.slots import Buffer
from fedlite.errors import CodecError

_SIZE = struct.Struct("<I")
_PLAIN, _CODED = 0, 1
_SHORT = 64  # bytes; fewer are not worth a code


@dataclass(frozen=True)
class Ans:
    """Compressor: range ANS (Duda 2014) in interleaved lanes."""

    key: ClassVar[str] = "ans"
    looks_inside: ClassVar[bool] = True

    def bound(self, planes: Planes) -> int:
        """The most bytes `compress` writes: one more for each plane."""
        return size_of(planes) + len(planes)

    def compress(self, data: bytes, planes: Planes) -> bytes:
        """The planes, each in the shorter way."""
        parts, place = [], 0
        for plane in planes:
            plain = data[place : place + plane.size]
            place += plane.size
            coded = _coded(plain, plane)
            if coded is None or len(coded) + _SIZE.size >= len(plain):
                parts += [bytes([_PLAIN]), plain]
            else:
                parts += [bytes([_CODED]), _SIZE.pack(len(coded)), coded]
        return b"".join(parts)

    def decompress(self, data: bytes, planes: Planes) -> Buffer:
        """The planes; CodecError unless `compress` could have written this."""
        whole, found = memoryview(data), np.zeros(size_of(planes), np.uint8)
        place = begin = 0
        for plane in planes:
            if place >= len(data):
                raise CodecError(f"payload ends at byte {place} of its body, where a plane should begin")
            coded, place = data[place] == _CODED, place + 1
            if data[place - 1] > _CODED:
                raise CodecError(f"payload codes a plane in the unknown way {data[place - 1]}")
            size = plane.size
            if coded:
                if place + _SIZE.size > len(data):
                    raise CodecError(f"payload ends at byte {len(data)} of its body, inside a plane")
                size, place = _SIZE.unpack_from(data, place)[0], place + _SIZE.size
            if place + size > len(data) or (coded and size + _SIZE.size >= plane.size):
                raise CodecError(f"payload holds a plane of {size} bytes, which it cannot")
            part, into = whole[place : place + size], found[begin : begin + plane.size]
            if coded:
                _decode(part, plane, into)
            else:
                into[:] = np.frombuffer(part, np.uint8)
            place, begin = place + size, begin + plane.size
        if place != len(data):
            raise CodecError(f"payload holds {len(data) - place} bytes behind its last plane")
        return found.data


def _coded(plain: bytes, plane: Plane) -> bytes | None:
    if len(plain) < _SHORT:
        return None
    if plane.tensors is not None:
        return levels.encode(np.frombuffer(plain, "<i2" if plane.wide else np.int8), plane.tensors)
    return entropy.encode(np.frombuffer(plain, np.uint8), 256)


def _decode(coded: memoryview, plane: Plane, into: NDArray[np.uint8]) -> None:
    if plane.tensors is not None:
        levels.decode(coded, plane.tensors, into.view("<i2" if plane.wide else np.int8))
    else:
        into[:] = entropy.decode(coded, plane.size, 256)
