"""DRIVE and EDEN: a random rotation makes every value Gaussian, so a few fixed levels and one scale serve all.

DRIVE (Vargaftik et al. 2021, Algorithm 1): one bit, the sign of the rotated value. EDEN (Vargaftik et al. 2022,
Algorithm 1): b bits by the Lloyd-Max levels of a normal distribution; a share below one bit by sending only some
rotated values, which ones being shared chance (§ on sub-bit budgets). The rotation is a Hadamard transform
after random signs. The vector is cut into falling powers of two, so that little is padded, each with its scale.
"""

import math
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedlite.seeds import generator
from fedlite.types import Array, Params, Update
from scripts.reproduce.published import bits
from scripts.reproduce.published.base import flat, float_bytes, floats, shaped

LEAST = 1024  # values: what is left below this is padded
SCALE = "<f4"


@dataclass(frozen=True)
class Eden:
    """`bits_each` whole numbers of bits for each rotated value, or below 1 the share of values that have one bit.

    `scale` is `unbiased`, ‖x‖² / ⟨R x, Q⟩, or `least`, ⟨R x, Q⟩ / ‖Q‖², which has the smallest error of one update;
    their cosines are the same where there is one block. With one bit this is DRIVE.
    """

    bits_each: float
    scale: Literal["unbiased", "least"] = "least"

    def encode(self, update: Update, seed: int) -> bytes:
        """Scales, then levels by number."""
        values, numbers, scales = flat(update), [], []
        for start, size in blocks(values.size):
            part = np.zeros(size, np.float32)
            part[: len(values[start : start + size])] = values[start : start + size]
            rotated = rotate(part, seed, start)
            if (kept := self._kept(size, seed, start)) is not None:
                rotated = rotated[kept]
            chosen, quantized = self._quantize(rotated, part)
            numbers.append(chosen)
            scales.append(self._scale(part, rotated, quantized))
        return float_bytes(np.array(scales), SCALE) + bits.pack_fixed(np.concatenate(numbers), self._width)

    def decode(self, payload: bytes, like: Params, seed: int) -> dict[str, Array]:
        """Levels times scale, rotated back."""
        total = sum(value.size for value in like.values())
        cut = blocks(total)
        kept = [self._kept(size, seed, start) for start, size in cut]
        counts = [size if each is None else each.size for (_, size), each in zip(cut, kept, strict=True)]
        scales = floats(payload, SCALE, len(cut))
        numbers = bits.unpack_fixed(payload[4 * len(cut) :], self._width, sum(counts))
        values = np.zeros(sum(size for _, size in cut), np.float32)
        done = 0
        for (start, size), each, count, scale in zip(cut, kept, counts, scales, strict=True):
            levels = centres(self._width)[numbers[done : done + count]] * scale
            rotated = levels
            if each is not None:
                rotated = np.zeros(size, np.float32)
                rotated[each] = levels
            values[start : start + size] = rotate_back(rotated, seed, start)
            done += count
        return shaped(values[:total], like)

    def _kept(self, size: int, seed: int, start: int) -> NDArray[np.int64] | None:
        """Which rotated values are sent; None is all of them."""
        if self.bits_each >= 1:
            return None
        count = max(1, round(self.bits_each * size))
        return np.sort(generator(seed, "kept", start).choice(size, count, replace=False))

    def _quantize(self, rotated: Array, part: Array) -> tuple[NDArray[np.int64], Array]:
        """(numbers of the nearest levels, the levels): of values scaled to variance 1."""
        norm = float(np.linalg.norm(part))
        scaled = rotated * np.float32(math.sqrt(part.size) / norm if norm > 0 else 0.0)
        levels = centres(self._width)
        numbers = np.searchsorted((levels[1:] + levels[:-1]) / 2, scaled).astype(np.int64)
        return numbers, levels[numbers]

    def _scale(self, part: Array, rotated: Array, quantized: Array) -> float:
        inner = float(np.dot(rotated.astype(np.float64), quantized))
        if inner <= 0:
            return 0.0
        if self.scale == "least":
            return inner / float(np.square(quantized, dtype=np.float64).sum())
        return float(np.square(part, dtype=np.float64).sum()) / inner

    @property
    def _width(self) -> int:
        return max(1, int(self.bits_each))


def blocks(size: int) -> list[tuple[int, int]]:
    """(start, length) of falling powers of two that cover `size` values; only the last is padded."""
    found, start = [], 0
    while size - start >= LEAST:
        length = 1 << (size - start).bit_length() - 1
        found.append((start, length))
        start += length
    if start < size:
        found.append((start, 1 << (size - start - 1).bit_length()))
    return found


def rotate(values: Array, seed: int, start: int) -> Array:
    """Random signs, then the orthonormal Hadamard transform."""
    return hadamard(values * _signs(values.size, seed, start))


def rotate_back(values: Array, seed: int, start: int) -> Array:
    """The inverse of `rotate`."""
    return hadamard(values) * _signs(values.size, seed, start)


def _signs(size: int, seed: int, start: int) -> Array:
    return generator(seed, "signs", start).integers(0, 2, size, np.int8).astype(np.float32) * 2 - 1


def hadamard(values: Array) -> Array:
    """The Walsh-Hadamard transform of 2^k values, over the root of their number, in steps of up to 2^6 as products."""
    size = values.size
    found, done = values.astype(np.float32), 1
    while done < size:
        step = min(64, size // done)
        found = np.einsum("ij,ajb->aib", _matrix(step), found.reshape(-1, step, done), optimize=True).reshape(
            -1
        )
        done *= step
    return found / np.float32(math.sqrt(size))


@cache
def _matrix(size: int) -> Array:
    matrix = np.ones((1, 1), np.float32)
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix


@cache
def centres(width: int) -> Array:
    """The 2^width levels of a normal variable with the least mean squared error. (Lloyd 1982; Max 1960)

    Each level is the mean of the values nearest to it: iterated until they stay.
    """
    count = 1 << width
    levels = np.array([_normal_quantile((index + 0.5) / count) for index in range(count)])
    for _ in range(20_000):
        edges = np.concatenate([[-np.inf], (levels[1:] + levels[:-1]) / 2, [np.inf]])
        mass = np.diff([0.5 * (1 + math.erf(edge / math.sqrt(2))) for edge in edges])
        density = np.exp(-0.5 * np.square(edges)) / math.sqrt(2 * math.pi)
        moved = -np.diff(density) / mass
        if np.abs(moved - levels).max() < 1e-9:
            break
        levels = moved
    return levels.astype(np.float32)


def _normal_quantile(share: float) -> float:
    from statistics import NormalDist

    return NormalDist().inv_cdf(share)
