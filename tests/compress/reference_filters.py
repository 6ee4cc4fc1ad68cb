"""`randomk` and `lowrank` undone in plain Python from docs/format.md: shares no code with fedlite, needs no NumPy."""

import math
import struct
from collections.abc import Sequence
from typing import NamedTuple

from tests.compress.reference_ans import Tensor, columns_of, is_matrix

MOST = struct.unpack("<f", b"\xff\xff\x7f\x7f")[0]
MASK = 2**64 - 1


class Inner(NamedTuple):
    """What a serializer writes: tensors with their masks, and how many statistics."""

    tensors: Sequence[Tensor]
    extra: int

    @property
    def sizes(self) -> list[int]:
        return [sum(live) for _, live in self.tensors]

    @property
    def count(self) -> int:
        return sum(self.sizes)


def f32(value: float) -> float:
    """Rounded to float32, the largest for what is beyond."""
    if abs(value) >= MOST:
        return math.copysign(MOST, value)
    found: float = struct.unpack("<f", struct.pack("<f", value))[0]
    return found


def mixed(seed: int, place: int) -> int:
    """SplitMix64's output of that number."""
    each = (seed + (place + 1) * 0x9E3779B97F4A7C15) & MASK
    each = (each ^ each >> 30) * 0xBF58476D1CE4E5B9 & MASK
    each = (each ^ each >> 27) * 0x94D049BB133111EB & MASK
    return each ^ each >> 31


def thinned(inner: Inner, fraction: float) -> Inner:
    tensors = [
        ((size := math.ceil(fraction * sum(t[1])),), [1] * size) if is_matrix(t) else t for t in inner.tensors
    ]
    return Inner(tensors, inner.extra)


def scattered(weights: list[float], note: bytes, fraction: float, inner: Inner) -> list[float]:
    seed, place, rest, found = int.from_bytes(note, "little"), 0, iter(weights), list[float]()
    for tensor, size in zip(inner.tensors, inner.sizes, strict=True):
        chosen = set(range(size))
        if is_matrix(tensor):
            order = sorted(range(size), key=lambda i, place=place: mixed(seed, place + i))
            chosen = set(order[: math.ceil(fraction * size)])
        found += [next(rest) if i in chosen else 0.0 for i in range(size)]
        place += size
    return found


def rank_of(tensor: Tensor, rank: int) -> int:
    """Of a tensor's factors; 0 where it has none."""
    rows, columns, live = tensor[0][0] if tensor[0] else 0, columns_of(tensor[0]), sum(tensor[1])
    if not is_matrix(tensor) or min(rows, columns) < 16 or 4 * live < 3 * rows * columns:
        return 0
    return min(rank, (live - 1) // (rows + columns))


def factored(inner: Inner, rank: float) -> Inner:
    tensors: list[Tensor] = []
    for tensor in inner.tensors:
        shape = tensor[0]
        if own := rank_of(tensor, int(rank)):
            shape = (shape[0] + columns_of(shape), own)
            tensors.append((shape, [1] * math.prod(shape)))
        else:
            tensors.append(tensor)
    return Inner(tensors, inner.extra)


def multiplied(weights: list[float], rank: int, inner: Inner) -> list[float]:
    rest, found = iter(weights), list[float]()
    for tensor, size in zip(inner.tensors, inner.sizes, strict=True):
        own = rank_of(tensor, rank)
        if not own:
            found += [next(rest) for _ in range(size)]
            continue
        rows, columns = tensor[0][0], columns_of(tensor[0])
        left, right = ([[next(rest) for _ in range(own)] for _ in range(n)] for n in (rows, columns))
        lengths = [max(length(left, i), length(right, i)) for i in range(own)]
        there = [i for i in range(own) if any(row[i] for row in left) and any(row[i] for row in right)]
        scaled = [[f32(row[i] / lengths[i]) for i in there] for row in left]
        alive = iter(tensor[1])
        for row in scaled:
            for column in right:
                total = 0.0
                for a, i in zip(row, there, strict=True):
                    total = f32(total + f32(a * column[i]))
                if next(alive):
                    found.append(total)
    return found


def length(factor: list[list[float]], i: int) -> float:
    square = 0.0
    for row in factor:
        square += row[i] * row[i]
    return math.sqrt(square)
