"""Sums of products in float64 in a stated order, so that whoever adds the same numbers gets the same bits.

What an encoder decides by a sum is then the same in NumPy and in the simulator's compiled coder. (Not so with a dot
product: a library adds in the order that suits the processor.)

Product i of two float32, which is exact, is added in lane i mod LANES. Then the upper half of the lanes is added to
the lower until there is one.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from fedlite.types import Array

LANES = 1024  # a power of two
_BLOCK = 16 * LANES  # products at a time: they stay in the cache


def squares(parts: Iterable[Array]) -> float:
    """The sum of squares of flat float32 arrays, each of which begins in lane 0."""
    lanes = np.zeros(LANES)
    for part in parts:
        lanes = _added(lanes, part, part)
    return _folded(lanes)


def products(one: Array, other: Array) -> float:
    """The sum of the products of two flat float32 arrays of one length."""
    return _folded(_added(np.zeros(LANES), one, other))


def _added(lanes: NDArray[np.float64], one: Array, other: Array) -> NDArray[np.float64]:
    for begin in range(0, len(one), _BLOCK):
        end = begin + _BLOCK
        some = np.multiply(one[begin:end], other[begin:end], dtype=np.float64)
        rest = len(some) % LANES
        whole, last = some[: len(some) - rest].reshape(-1, LANES), some[len(some) - rest :]
        if len(whole):
            whole[0] += lanes
            lanes = np.add.reduce(whole, axis=0)  # row after row
        lanes[:rest] += last
    return lanes


def _folded(lanes: NDArray[np.float64]) -> float:
    while len(lanes) > 1:
        lanes = lanes[: len(lanes) // 2] + lanes[len(lanes) // 2 :]
    return float(lanes[0])
