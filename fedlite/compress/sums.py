"""Sums in float64 in a stated order, so that whoever adds the same numbers gets the same bits.

What an encoder decides by a sum is then the same in NumPy and in the simulator's compiled coder. (Not so with a dot
product: a library adds in the order that suits the processor.)
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlite.types import Array

LANES = 1024  # a power of two
_BLOCK = 16 * LANES  # values squared at a time: they stay in the cache


def squares(parts: Iterable[Array]) -> float:
    """The sum of squares of flat float32 arrays.

    Value i of each array is squared, which is exact, and added in lane i mod LANES. Then the upper half of the lanes
    is added to the lower until there is one.
    """
    lanes = np.zeros(LANES)
    for part in parts:
        for begin in range(0, len(part), _BLOCK):
            some = np.square(part[begin : begin + _BLOCK], dtype=np.float64)
            rest = len(some) % LANES
            whole, last = some[: len(some) - rest].reshape(-1, LANES), some[len(some) - rest :]
            if len(whole):
                whole[0] += lanes
                lanes = np.add.reduce(whole, axis=0)  # row after row
            lanes[:rest] += last
    while len(lanes) > 1:
        lanes = lanes[: len(lanes) // 2] + lanes[len(lanes) // 2 :]
    return float(lanes[0])


def in_turn(values: NDArray[Any]) -> float:
    """The sum of a flat array, each value added to the sum of those before it."""
    return float(np.cumsum(values, dtype=np.float64)[-1]) if len(values) else 0.0
