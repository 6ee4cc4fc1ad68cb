"""Codes of whole numbers as bits, vectorised: fixed width, Elias' recursive code, Golomb-Rice gaps."""

import numpy as np
from numpy.typing import NDArray

Bits = NDArray[np.uint8]  # one bit an element, first bit first
Numbers = NDArray[np.int64]


def pack_fixed(values: Numbers, width: int) -> bytes:
    """Each value, 0 ≤ value < 2^width, in `width` bits."""
    shifts = np.arange(width - 1, -1, -1, dtype=np.int64)
    if values.size == 0 or width == 0:
        return b""
    return np.packbits((values.astype(np.int64)[:, None] >> shifts & 1).astype(np.uint8)).tobytes()


def unpack_fixed(data: bytes, width: int, count: int) -> Numbers:
    """The inverse of `pack_fixed`."""
    if width == 0:
        return np.zeros(count, np.int64)
    bits = np.unpackbits(np.frombuffer(data, np.uint8), count=count * width).reshape(count, width)
    return bits @ (1 << np.arange(width - 1, -1, -1, dtype=np.int64))


def elias(values: Numbers) -> tuple[NDArray[np.uint64], Numbers]:
    """(code words, their lengths in bits) of values ≥ 1 below 2^31: Elias' recursive (omega) code.

    A 0 at the end; while the value is above 1, its binary form goes in front and the next value is that form's
    length less 1. (Elias 1975; Alistarh et al. 2017, §3.2)
    """
    left = values.astype(np.int64)
    words, lengths = np.zeros(left.shape, np.uint64), np.ones(left.shape, np.int64)
    while (more := left > 1).any():
        size = bit_length(left)
        words = np.where(more, words | left.astype(np.uint64) << lengths.astype(np.uint64), words)
        lengths = np.where(more, lengths + size, lengths)
        left = np.where(more, size - 1, left)
    return words, lengths


def bit_length(values: Numbers) -> Numbers:
    """How many bits each value ≥ 0 below 2^53 has."""
    return np.frexp(values.astype(np.float64))[1].astype(np.int64)


def write(words: NDArray[np.uint64], lengths: Numbers) -> Bits:
    """The code words one after the other."""
    ends = np.cumsum(lengths)
    starts = ends - lengths
    bits = np.zeros(int(ends[-1]) if ends.size else 0, np.uint8)
    for index in range(int(lengths.max(initial=0))):
        held = lengths > index
        words, lengths, starts = words[held], lengths[held], starts[held]
        bits[starts + index] = words >> (lengths - 1 - index).astype(np.uint64) & np.uint64(1)
    return bits


def elias_anywhere(bits: Bits, most: int) -> tuple[Numbers, Numbers]:
    """(value, place after it) of the code word that would start at each place, values up to `most`.

    Reading them all at once leaves only the walk from word to word to be done in order. Places where none ends
    within the bits have 0 as value.
    """
    count = bits.size
    padded = np.concatenate([bits, np.zeros(80, np.uint8)])
    places = np.arange(count + 1)
    values, ends = np.ones(count + 1, np.int64), places.copy()
    limit = max(int(most).bit_length(), 2)
    windows = _windows(padded, count + 64, limit)
    going = np.flatnonzero(padded[: count + 1] == 1)
    while going.size:
        size = values[going] + 1
        good = size <= limit
        values[going[~good]], ends[going[~good]] = 0, count + 1
        going, size = going[good], size[good]
        at = ends[going]
        values[going] = windows[at] >> (limit - size)
        ends[going] = at + size
        inside = ends[going] < count
        going = going[inside]
        going = going[padded[ends[going]] == 1]
    return values, np.minimum(ends + 1, count + 1)


def _windows(bits: Bits, count: int, width: int) -> Numbers:
    """The `width` bits from each place on as a number."""
    padded = np.concatenate([bits, np.zeros(width, np.uint8)])
    count = min(count, bits.size)
    found = np.zeros(count, np.int64)
    for index in range(width):
        found = found << 1 | padded[index : index + count]
    return found


def rice_parameter(count: int, size: int) -> int:
    """How many low bits of a gap are written as they are, where `count` of `size` places are chosen.

    (Gallager & van Voorhis 1975, as in Sattler et al. 2019, eq. 17)
    """
    share = min(max(count / max(size, 1), 1e-9), 0.5)
    golden = (np.sqrt(5) + 1) / 2
    return max(0, 1 + int(np.floor(np.log2(np.log(golden - 1) / np.log1p(-share)))))


def pack_gaps(places: Numbers, size: int) -> bytes:
    """Rising places below `size`: gaps in Golomb-Rice code, all unary parts first, then all low bits."""
    low = rice_parameter(places.size, size)
    gaps = np.diff(places, prepend=-1) - 1
    ones = np.cumsum((gaps >> low) + 1) - 1
    unary = np.zeros(int(ones[-1]) + 1 if ones.size else 0, np.uint8)
    unary[ones] = 1
    return np.packbits(unary).tobytes() + pack_fixed(gaps & ((1 << low) - 1), low)


def unpack_gaps(data: bytes, count: int, size: int) -> Numbers:
    """The inverse of `pack_gaps`."""
    low = rice_parameter(count, size)
    rest = -(-count * low // 8)
    ones = np.flatnonzero(np.unpackbits(np.frombuffer(data[: len(data) - rest], np.uint8)))[:count]
    gaps = np.diff(ones, prepend=-1) - 1 << low | unpack_fixed(data[len(data) - rest :], low, count)
    return np.cumsum(gaps + 1) - 1
