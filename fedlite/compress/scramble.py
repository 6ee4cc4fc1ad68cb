"""Numbers that look random and that both sides compute from a seed of 8 bytes: SplitMix64.

The same in every version of NumPy and in C, which a library's own generators are not. Distinct places give distinct
numbers, for each step of it is a bijection. Not for secrets. (Steele, Lea and Flood 2014, Fig. 15)
"""

import numpy as np
from numpy.typing import NDArray

from fedlite.compress.slots import Chance
from fedlite.errors import SettingsError

SEED_BYTES = 8
_BLOCK = 1 << 16  # numbers that are held at a time
_TOP = np.uint64(48)
_STRIDE, _FIRST, _SECOND = (
    np.uint64(each) for each in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)


def draw_seed(chance: Chance) -> bytes:
    """Eight bytes. SettingsError without a generator."""
    if chance is None:
        raise SettingsError("a codec that draws at random needs a generator")
    return chance.bytes(SEED_BYTES)


def smallest(seed: bytes, begin: int, end: int, count: int) -> NDArray[np.bool_]:
    """Which of the outputs numbered begin … end − 1 are the `count` ≥ 1 smallest of them.

    They are made a block at a time, twice: how many begin with each 16 bits says where the largest of them is.
    """
    blocks = [(at, min(at + _BLOCK, end)) for at in range(begin, end, _BLOCK)]
    tops = np.zeros(1 << 16, np.int64)
    for block in blocks:
        tops += np.bincount((scrambled(seed, *block) >> _TOP).astype(np.int64), minlength=len(tops))
    upto = np.cumsum(tops)
    last = int(np.searchsorted(upto, count))  # what the largest begins with
    found = np.zeros(end - begin, np.bool_)
    near, numbers = [np.zeros(0, np.intp)], [np.zeros(0, np.uint64)]
    for block in blocks:
        some = scrambled(seed, *block)
        top = some >> _TOP
        found[block[0] - begin : block[1] - begin] = top < np.uint64(last)
        here = np.flatnonzero(top == np.uint64(last))
        near.append(here + (block[0] - begin))
        numbers.append(some[here])
    rest = np.argsort(np.concatenate(numbers))[: count - int(upto[last] - tops[last])]
    found[np.concatenate(near)[rest]] = True
    return found


def scrambled(seed: bytes, begin: int, end: int) -> NDArray[np.uint64]:
    """The outputs numbered begin … end − 1 of the generator with this state, little-endian."""
    state = np.frombuffer(seed, "<u8")
    numbers: NDArray[np.uint64] = state + np.arange(begin + 1, end + 1, dtype=np.uint64) * _STRIDE
    numbers = (numbers ^ (numbers >> np.uint64(30))) * _FIRST
    numbers = (numbers ^ (numbers >> np.uint64(27))) * _SECOND
    return numbers ^ (numbers >> np.uint64(31))
