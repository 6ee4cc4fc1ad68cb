"""Levels in the fewest bits that hold the largest of them: two's complement, lowest bit first, one after another.

Where time is scarce, or levels are about evenly spread, so that entropy coding gains little.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fedlite.compress.planes import Plane, Planes, size_of
from fedlite.errors import CodecError

Levels = NDArray[np.int8] | NDArray[np.int16]
Codes = NDArray[np.uint8] | NDArray[np.uint16]

_AT_ONCE = 1 << 16  # levels; a multiple of 8, so that each part ends with a byte


@dataclass(frozen=True)
class Bits:
    """Compressor: each plane of levels as one byte, the width w (0, or 2 … 16), and w bits for each level.

    Width 0: all levels are 0. Other planes are as they are.
    """

    key: ClassVar[str] = "bits"
    looks_inside: ClassVar[bool] = True

    def bound(self, planes: Planes) -> int:
        """The most bytes `compress` writes: one more for each plane of levels."""
        return size_of(planes) + sum(plane.tensors is not None for plane in planes)

    def compress(self, data: bytes, planes: Planes) -> bytes:
        """The planes."""
        parts, place = list[bytes](), 0
        for plane in planes:
            part, place = data[place : place + plane.size], place + plane.size
            if plane.tensors is None:
                parts.append(part)
            else:
                levels = np.frombuffer(part, _kind(plane))
                width = _width(levels)
                parts += [bytes([width]), packed(levels.view(levels.dtype.str.replace("i", "u")), width)]
        return b"".join(parts)

    def decompress(self, data: bytes, planes: Planes) -> bytes:
        """The planes; CodecError unless `compress` could have written this."""
        parts, place = list[bytes](), 0
        for plane in planes:
            size = plane.size
            if plane.tensors is not None:
                if place >= len(data):
                    raise CodecError(f"payload ends at byte {place} of its body, where levels should begin")
                width, place = data[place], place + 1
                if width == 1 or width > 8 * (1 + plane.wide):
                    raise CodecError(f"payload holds levels of {width} bits")
                size = (size // (1 + plane.wide) * width + 7) // 8
            part, place = data[place : place + size], place + size
            if len(part) < size:
                raise CodecError(f"payload ends at byte {len(data)} of its body, {place} expected")
            parts.append(part if plane.tensors is None else _levels(part, plane, width).tobytes())
        if place != len(data):
            raise CodecError(f"payload holds {len(data) - place} bytes behind its last plane")
        return b"".join(parts)


def packed(values: NDArray[Any], width: int) -> bytes:
    """The lowest `width` ≤ 16 bits of each value, lowest first; the last byte is filled with zeros."""
    if width and 8 % width == 0:
        several = np.zeros((-(-len(values) // (8 // width)), 8 // width), np.uint8)
        several.reshape(-1)[: len(values)] = values.astype(np.uint8) & np.uint8((1 << width) - 1)
        whole: NDArray[np.uint8] = np.bitwise_or.reduce(several << _shifts(width), axis=1)
        return whole.tobytes()
    octets = 1 if width <= 8 else 2
    parts = []
    for begin in range(0, len(values) if width else 0, _AT_ONCE):
        some = values[begin : begin + _AT_ONCE].astype("<u2")
        raw = some.view(np.uint8).reshape(-1, 2)[:, :octets]
        bits = np.unpackbits(raw, axis=1, count=width, bitorder="little")
        parts.append(np.packbits(bits.reshape(-1), bitorder="little").tobytes())
    return b"".join(parts)


def unpacked(data: bytes | memoryview, count: int, width: int) -> Codes:
    """The inverse, in the fewest bytes; CodecError unless the last byte is filled with zeros.

    `data` has the right length.
    """
    raw, octets = np.frombuffer(data, np.uint8), 1 if width <= 8 else 2
    found = np.zeros((count, octets), np.uint8)
    for begin in range(0, count if width else 0, _AT_ONCE):
        size = min(_AT_ONCE, count - begin)
        first = begin * width // 8
        part = raw[first : first + (size * width + 7) // 8]
        if 8 % width == 0:
            several = ((part[:, np.newaxis] >> _shifts(width)) & np.uint8((1 << width) - 1)).reshape(-1, 1)
            values, behind = several[:size], several[size:]
        else:
            bits = np.unpackbits(part, bitorder="little")
            values = np.packbits(bits[: size * width].reshape(size, width), axis=1, bitorder="little")
            behind = bits[size * width :]
        if behind.any():
            raise CodecError("payload holds bits behind its last value")
        found[begin : begin + size] = values
    return found.reshape(-1) if octets == 1 else found.view("<u2").reshape(-1)


def _shifts(width: int) -> NDArray[np.uint8]:
    return np.arange(0, 8, width, dtype=np.uint8)


def _kind(plane: Plane) -> str:
    return "<i2" if plane.wide else "|i1"


def _width(levels: Levels) -> int:
    """Bits of the largest magnitude and its sign; 0 if there is none."""
    most = max(int(levels.max(initial=0)), -int(levels.min(initial=0)))
    return most.bit_length() + 1 if most else 0


def _levels(part: bytes, plane: Plane, width: int) -> Levels:
    """CodecError for bits that another width would have been chosen for, or −2^(width − 1)."""
    codes = unpacked(part, plane.size // (1 + plane.wide), width)
    found: Levels = np.empty(len(codes), _kind(plane))
    for begin in range(0, len(codes), _AT_ONCE):
        some = codes[begin : begin + _AT_ONCE].astype(np.int32)
        found[begin : begin + _AT_ONCE] = some - ((some >= 1 << width >> 1) << width if width else 0)
    if _width(found) != width:
        raise CodecError(f"payload holds levels of {_width(found)} bits in {width} each")
    return found
