"""A draw for any (stream, index) at once: what a generator per client would cost too much to make or keep.

Draw i of stream s is output i of the SplitMix64 generator that starts at s (Steele, Lea & Flood 2014, Figure
16), which can be computed on its own: nothing is held for a client, and a million draws are a few array
operations. Good enough to decide who is awake; training data and noise come from `seeds.generator`.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedlite.seeds import Label, derive

Bits = NDArray[np.uint64]
Reals = NDArray[np.float64]

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def stream(seed: int, *labels: Label) -> Bits:
    """The stream these labels name, as `bits` takes it; shape ()."""
    return np.asarray(derive(seed, *labels), dtype=np.uint64)


def bits(streams: Bits, index: ArrayLike) -> Bits:
    """64 random bits for each index (an integer, negative too) of each stream; the shapes are broadcast.

    The bits are themselves streams: `bits(bits(s, client), round_num)` draws for a client in a round.
    """
    with np.errstate(over="ignore"):  # arithmetic is modulo 2^64
        z = streams + (np.asarray(index, dtype=np.int64).astype(np.uint64) + np.uint64(1)) * _GAMMA
        z = (z ^ (z >> np.uint64(30))) * _FIRST
        z = (z ^ (z >> np.uint64(27))) * _SECOND
        return np.asarray(z ^ (z >> np.uint64(31)), dtype=np.uint64)


def uniform(streams: Bits, index: ArrayLike) -> Reals:
    """Uniform draws in [0, 1) with 53 bits; shapes as `bits`."""
    return np.asarray((bits(streams, index) >> np.uint64(11)) * 2.0**-53, dtype=np.float64)


def exponential(streams: Bits, index: ArrayLike) -> Reals:
    """Draws from the exponential distribution of mean 1, by inversion; shapes as `bits`."""
    return np.asarray(-np.log1p(-uniform(streams, index)), dtype=np.float64)


def normal(streams: Bits, index: ArrayLike) -> Reals:
    """Draws from N(0, 1) by the sine and cosine of one angle (Box & Muller 1958); shapes as `bits`."""
    own = bits(streams, index)
    angle = 2 * np.pi * uniform(own, 1)
    return np.asarray(np.sqrt(2 * exponential(own, 0)) * np.cos(angle), dtype=np.float64)
