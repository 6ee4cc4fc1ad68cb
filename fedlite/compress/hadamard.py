"""The randomised Hadamard rotation: spreads a vector so evenly that a few bits for each coordinate say most of it.

x → H D x / √d, with signs D that both sides draw from a seed, and H the Hadamard matrix in its natural order. Its
coordinates are nearly normal, whatever x was. (Ailon & Chazelle 2009; Vargaftik 2021, §5)
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from fedlite.compress.scramble import scrambled

Doubles = NDArray[np.float64]

LARGEST = 1 << 16  # coordinates of a block
_SHORT = 256  # what is left of a tensor below this is one block, filled with zeros


def blocks(size: int) -> Iterator[tuple[int, int]]:
    """(weights, coordinates) of the blocks of a tensor: powers of two, the largest first; only the last is filled."""
    while size:
        coordinates = 1 << (size - 1).bit_length() if size < _SHORT else 1 << (size.bit_length() - 1)
        coordinates = min(coordinates, LARGEST)
        weights = min(size, coordinates)
        yield weights, coordinates
        size -= weights


def rotated(values: Doubles, seed: bytes, place: int) -> Doubles:
    """H D values / √d; the signs are the highest bits of the seed's numbers from `place` on, 1 for −."""
    return _transformed(values * _signs(seed, place, len(values)))


def turned_back(values: Doubles, seed: bytes, place: int) -> Doubles:
    """The inverse."""
    return _transformed(values) * _signs(seed, place, len(values))


def _signs(seed: bytes, place: int, size: int) -> Doubles:
    bits = scrambled(seed, place, place + size) >> np.uint64(63)
    return 1.0 - 2.0 * bits.astype(np.float64)


def _transformed(values: Doubles) -> Doubles:
    """H values / √d. Sums of neighbours, then their differences, log₂ d times: that is H in natural order."""
    half = len(values) // 2
    done = 1
    while done < len(values):
        other = np.empty_like(values)
        np.add(values[0::2], values[1::2], out=other[:half])
        np.subtract(values[0::2], values[1::2], out=other[half:])
        values, done = other, 2 * done
    found: Doubles = values / np.sqrt(np.float64(len(values)))
    return found
