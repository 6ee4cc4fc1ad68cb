"""QSGD and FedPAQ: a norm, and for each value a sign and a whole number of levels, rounded without bias.

QSGD (Alistarh et al. 2017, §3.1): Q_s(v_i) = ‖v‖₂ · sgn(v_i) · ζ_i with ζ_i one of the two multiples of 1/s beside
|v_i| / ‖v‖₂, drawn so that its mean is that. FedPAQ (Reisizadeh et al. 2020, Example 1) quantizes the same way and
counts a fixed number of bits a value.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedlite.seeds import generator
from fedlite.types import Array, Params, Update
from scripts.reproduce.published import bits
from scripts.reproduce.published.base import flat, float_bytes, floats, shaped

NORM = "<f4"
Levels = NDArray[np.int64]


def quantize(values: Array, levels: int, bucket: int, norm: str, seed: int) -> tuple[Array, Levels]:
    """(a norm for each bucket, signed levels −s … s for each value)."""
    rows = _rows(values, bucket)
    norms: Array = np.abs(rows).max(1)
    if norm == "2":
        norms = np.sqrt(np.square(rows, dtype=np.float64).sum(1)).astype(np.float32)
    factor = np.float32(levels) / np.where(norms > 0, norms, np.float32(1))
    scaled = np.abs(rows) * factor[:, None]
    down = np.floor(scaled)
    up = generator(seed, "levels").random(rows.shape, np.float32) < scaled - down
    whole = np.minimum(down + up, levels) * np.sign(rows)
    return norms, whole.reshape(-1)[: values.size].astype(np.int64)


def restore(norms: Array, whole: Levels, levels: int, bucket: int) -> Array:
    """What the decoder makes of `quantize`'s answer."""
    rows = _rows(whole.astype(np.float32), bucket)
    return (rows * (norms / np.float32(levels))[:, None]).reshape(-1)[: whole.size]


def _rows(values: Array, bucket: int) -> Array:
    """Buckets as rows, the last one filled with zeros; 0 is one bucket of all."""
    size = bucket or max(values.size, 1)
    rows: Array = np.pad(values, (0, -values.size % size)).reshape(-1, size)
    return rows


@dataclass(frozen=True)
class Qsgd:
    """QSGD with `levels` s, by buckets of `bucket` consecutive values (0: none) scaled by `norm`.

    The paper's theory has one bucket and the 2-norm; its experiments (§5) buckets of 128 to 8192 and the largest
    magnitude. `code` is `elias`, the better of its two codes in the first bit's word, or `fixed`: as many bits as
    2s + 1 levels need.
    """

    levels: int
    bucket: int = 0
    norm: Literal["2", "max"] = "2"
    code: Literal["elias", "fixed"] = "elias"

    def encode(self, update: Update, seed: int) -> bytes:
        """Norms, then levels."""
        norms, whole = quantize(flat(update), self.levels, self.bucket, self.norm, seed)
        if self.code == "fixed":
            return float_bytes(norms, NORM) + bits.pack_fixed(whole + self.levels, self._width)
        sparse, dense = sparse_code(whole), dense_code(whole)
        body = np.concatenate([[sparse.size < dense.size], sparse if sparse.size < dense.size else dense])
        filled = np.pad(
            body.astype(np.uint8), (0, -body.size % 8), constant_values=1
        )  # ones end no code word
        return float_bytes(norms, NORM) + np.packbits(filled).tobytes()

    def decode(self, payload: bytes, like: Params, seed: int) -> dict[str, Array]:
        """Levels times norm over s."""
        size = sum(value.size for value in like.values())
        count = -(-size // self.bucket) if self.bucket else 1
        norms, body = floats(payload, NORM, count), payload[4 * count :]
        if self.code == "fixed":
            whole = bits.unpack_fixed(body, self._width, size) - self.levels
        else:
            found = np.unpackbits(np.frombuffer(body, np.uint8))
            read = read_sparse if found[0] else read_dense
            whole = read(found[1:], size, self.levels)
        return shaped(restore(norms, whole, self.levels, self.bucket), like)

    @property
    def _width(self) -> int:
        return int(2 * self.levels).bit_length()


def sparse_code(whole: Levels) -> bits.Bits:
    """For each nonzero: Elias(distance from the last), its sign, Elias(level). (Alistarh et al. 2017, §3.2)"""
    places = np.flatnonzero(whole)
    gaps, gap_sizes = bits.elias(np.diff(places, prepend=-1))
    levels, level_sizes = bits.elias(np.abs(whole[places]))
    signs = (whole[places] < 0).astype(np.uint64)
    words = np.stack([gaps, signs, levels], 1).reshape(-1)
    return bits.write(words, np.stack([gap_sizes, np.ones_like(places), level_sizes], 1).reshape(-1))


def dense_code(whole: Levels) -> bits.Bits:
    """For each value: Elias(level + 1), then its sign where it is not 0. (Alistarh et al. 2017, Appendix A.3)"""
    words, sizes = bits.elias(np.abs(whole) + 1)
    signed = whole != 0
    words = np.where(signed, words << np.uint64(1) | (whole < 0).astype(np.uint64), words)
    return bits.write(words, sizes + signed)


def read_sparse(found: bits.Bits, size: int, levels: int) -> Levels:
    """The inverse of `sparse_code`: it ends where less than a word is left, or all places are taken."""
    values, ends = bits.elias_anywhere(found, max(size, levels))
    value_of, end_of = values.tolist(), ends.tolist()
    places, at, place, count = [], 0, -1, found.size
    starts = []
    while at < count and end_of[at] + 1 < count:
        gap, sign = value_of[at], end_of[at]
        if not gap or not value_of[sign + 1] or end_of[sign + 1] > count or place + gap >= size:
            break
        place += gap
        places.append(place)
        starts.append(sign)
        at = end_of[sign + 1]
    whole = np.zeros(size, np.int64)
    signs = np.array(starts, np.int64)
    whole[places] = values[signs + 1] * np.where(found[signs], -1, 1)
    return whole


def read_dense(found: bits.Bits, size: int, levels: int) -> Levels:
    """The inverse of `dense_code`."""
    values, ends = bits.elias_anywhere(found, levels + 1)
    following = np.where(values > 1, ends + 1, ends).tolist()
    starts, at = [], 0
    for _ in range(size):
        starts.append(at)
        at = following[at]
    chosen = np.array(starts, np.int64)
    level = values[chosen] - 1
    signs = found[np.minimum(ends[chosen], found.size - 1)]
    return np.where((level > 0) & (signs == 1), -level, level)


@dataclass(frozen=True)
class FedPaq:
    """FedPAQ's low-precision quantizer: 32 bits of norm, then a sign bit and the level's bits for every value.

    `per_tensor` gives each tensor a norm of its own, which is kinder: its paper has one for the whole update.
    """

    levels: int
    per_tensor: bool = False

    def encode(self, update: Update, seed: int) -> bytes:
        """Norms, signs, levels."""
        parts = [value.reshape(-1) for value in update.values()] if self.per_tensor else [flat(update)]
        done = [
            quantize(part, self.levels, 0, "2", seed + index) for index, part in enumerate(parts) if part.size
        ]
        norms, whole = (np.concatenate(each) for each in zip(*done, strict=True))
        signs = np.packbits(whole < 0).tobytes()
        return float_bytes(norms, NORM) + signs + bits.pack_fixed(np.abs(whole), self._width)

    def decode(self, payload: bytes, like: Params, seed: int) -> dict[str, Array]:
        """Levels times norm over s."""
        total = sum(value.size for value in like.values())
        sizes = [value.size for value in like.values() if value.size] if self.per_tensor else [total]
        norms, at = floats(payload, NORM, len(sizes)), 4 * len(sizes)
        signs = np.unpackbits(np.frombuffer(payload, np.uint8, -(-total // 8), at), count=total)
        levels = bits.unpack_fixed(payload[at + -(-total // 8) :], self._width, total)
        scale = np.repeat(norms / self.levels, sizes)
        return shaped((np.where(signs == 1, -levels, levels) * scale).astype(np.float32), like)

    @property
    def _width(self) -> int:
        return int(self.levels).bit_length()
