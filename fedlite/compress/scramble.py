"""Numbers that look random and that both sides compute from a seed of 8 bytes: SplitMix64.

The same in every version of NumPy and in C, which a library's own generators are not. Distinct places give distinct
numbers, for each step of it is a bijection. Not for secrets. (Steele, Lea and Flood 2014, Fig. 15)
"""

import numpy as np
from numpy.typing import NDArray

from fedlite.compress.slots import Chance
from fedlite.errors import SettingsError

SEED_BYTES = 8
_STRIDE, _FIRST, _SECOND = (
    np.uint64(each) for each in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)


def draw_seed(chance: Chance) -> bytes:
    """Eight bytes. SettingsError without a generator."""
    if chance is None:
        raise SettingsError("a codec that draws at random needs a generator")
    return chance.bytes(SEED_BYTES)


def scrambled(seed: bytes, begin: int, end: int) -> NDArray[np.uint64]:
    """The outputs numbered begin … end − 1 of the generator with this state, little-endian."""
    state = np.frombuffer(seed, "<u8")
    numbers: NDArray[np.uint64] = state + np.arange(begin + 1, end + 1, dtype=np.uint64) * _STRIDE
    numbers = (numbers ^ (numbers >> np.uint64(30))) * _FIRST
    numbers = (numbers ^ (numbers >> np.uint64(27))) * _SECOND
    return numbers ^ (numbers >> np.uint64(31))
