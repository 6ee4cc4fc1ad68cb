"""Symmetric int8, int4 and int2 with one scale per output channel (or tensor): w ≈ scale · q, q in [−top, top].

A scale is 16 bits, the exponent and the first 8 fraction bits of a float32: it is never negative, loses at
most 0.4 % of a step, and `top · scale` is exact. It is rounded up, so that no weight is clipped, and encoding
uses the rounded scale, so that what decoding computes is within half a step of what was given.
(Symmetric quantization: Jacob 2018, Eq. 1 with zero_point 0; per channel: Krishnamoorthi 2018, §2.)
"""

from dataclasses import dataclass
from typing import ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from fedlite.compress.layout import Layout
from fedlite.compress.planes import Plane, Planes, levels_of
from fedlite.compress.slots import Buffer
from fedlite.errors import CodecError, SettingsError
from fedlite.types import Array

Number = TypeVar("Number", np.float32, np.int8)

_BLOCK = 1 << 16  # weights that are scaled at a time
SMALLEST = 0x0100  # 2^-126, the smallest normal float32: no subnormal is ever computed from a payload


@dataclass(frozen=True)
class Int8:
    """Serializer: two bytes per scale, one per weight, four per statistic (these stay exact). Levels are −127 … 127.

    With `per_channel=False` a tensor has one scale: coarser, but small channels then hold few distinct levels
    and compress better; meant to go with error feedback.

    Rounds to nearest, ties to even; with `stochastic`, up or down at random so that the mean is unbiased.
    A row whose largest magnitude is below 127 · 2^-126 travels as zeros.
    """

    per_channel: bool = True
    stochastic: bool = False
    bits: ClassVar[int] = 8

    @property
    def key(self) -> str:
        """int8 per channel, int8-tensor per tensor."""
        return f"int{self.bits}" if self.per_channel else f"int{self.bits}-tensor"

    @property
    def top(self) -> int:
        """The largest level."""
        return int(2 ** (self.bits - 1)) - 1

    def planes(self, layout: Layout) -> Planes:
        """Scale exponents, scale fractions, levels, statistics."""
        rows = self._rows(layout).size
        return (Plane(rows), Plane(rows), levels_of(layout.tensors), Plane(4 * layout.statistics))

    def dump(
        self, weights: Array, statistics: Array, layout: Layout, chance: np.random.Generator | None
    ) -> bytes:
        """Scale exponents, scale fractions, levels, statistics."""
        rows = self._rows(layout)
        codes = scale_codes(_peaks(np.abs(weights), rows), self.top)
        steps = np.where(codes > 0, scales(codes), np.float32(np.inf))
        levels = self._round(weights / np.repeat(steps, rows), chance)
        if self.top == 1 and self.stochastic:
            codes[_peaks(np.abs(levels), rows) == 0] = 0  # what came to nothing has no scale
        fraction, exponent = (codes & 0xFF).astype(np.uint8), (codes >> 8).astype(np.uint8)
        planes = (exponent, fraction, levels, statistics.astype("<f4", copy=False))
        return b"".join(plane.tobytes() for plane in planes)

    def load(self, body: Buffer, layout: Layout) -> tuple[Array, Array]:
        """(weights, statistics) of a body of that size; CodecError for bytes `dump` never writes."""
        rows, weights = self._rows(layout), layout.weights
        count = rows.size
        planes = np.frombuffer(body, np.uint8, 2 * count).astype(np.uint16)
        codes = planes[:count] << np.uint16(8) | planes[count:]
        levels = np.frombuffer(body, np.int8, weights, 2 * count)
        statistics = np.frombuffer(body, "<f4", layout.statistics, 2 * count + weights).astype(np.float32)
        _check(codes, levels, statistics, rows, self.top)
        return _scaled(levels, scales(codes), rows), statistics

    def _rows(self, layout: Layout) -> NDArray[np.int64]:
        return layout.channels if self.per_channel else layout.sizes

    def _round(self, ratio: Array, chance: np.random.Generator | None) -> NDArray[np.int8]:
        if not self.stochastic:
            return np.rint(ratio, out=ratio).astype(np.int8)
        if chance is None:
            raise SettingsError("stochastic rounding needs a generator")
        ratio += chance.random(ratio.size, np.float32)
        return np.clip(np.floor(ratio, out=ratio), -self.top, self.top, out=ratio).astype(np.int8)


class Int4(Int8):
    """Serializer: the same with levels −7 … 7. One byte each, which a compressor makes half a byte or less."""

    bits: ClassVar[int] = 4


class Int2(Int8):
    """Serializer: the same with levels −1, 0 and 1. (TernGrad, where rounded at random: Wen 2017, Eq. 2)"""

    bits: ClassVar[int] = 2


def _scaled(levels: NDArray[np.int8], steps: Array, rows: NDArray[np.int64]) -> Array:
    """Each row's levels times its step, block by block: it takes little more memory than what it makes."""
    weights, ends = levels.astype(np.float32), np.cumsum(rows)
    for begin in range(0, weights.size, _BLOCK):
        end = min(begin + _BLOCK, weights.size)
        some = slice(np.searchsorted(ends, begin, "right"), np.searchsorted(ends, end, "left") + 1)
        inside = np.minimum(ends[some], end) - np.maximum(ends[some] - rows[some], begin)
        weights[begin:end] *= np.repeat(steps[some], inside)
    return weights


def scale_codes(peaks: Array, top: int = 127) -> NDArray[np.uint16]:
    """The 16-bit scale of rows with these largest magnitudes (finite, ≥ 0): peak / top, rounded up."""
    bits = (peaks / np.float32(top)).view(np.uint32).astype(np.uint64)
    codes = np.minimum((bits + 0x7FFF) >> 15, largest_code(top)).astype(np.uint16)
    return np.where(codes < SMALLEST, np.uint16(0), codes)


def scales(codes: NDArray[np.uint16]) -> Array:
    """The float32 each code stands for: its bits below a zero sign, then fifteen zero bits."""
    return (codes.astype(np.uint32) << np.uint32(15)).view(np.float32)


def largest_code(top: int) -> int:
    """Of the largest scale whose `top`-fold is finite: 0xF802 of int8, 0xFC24 of int4, 0xFEFF of int2."""
    limit = np.array([np.finfo(np.float32).max], np.float32) / np.float32(top)
    return int(limit.view(np.uint32)[0] >> 15)


def _peaks(magnitudes: NDArray[Number], rows: NDArray[np.int64]) -> NDArray[Number]:
    """The largest of each run of `rows[i]` > 0 values."""
    if rows.size == 0:
        return magnitudes
    peaks: NDArray[Number] = np.maximum.reduceat(magnitudes, np.cumsum(rows) - rows)
    return peaks


def _check(
    codes: NDArray[np.uint16], levels: NDArray[np.int8], statistics: Array, rows: NDArray[np.int64], top: int
) -> None:
    """Refuse what `dump` never writes: a row's largest level is top (or one less, when rounding at random)."""
    largest = largest_code(top)
    if (((codes > 0) & (codes < SMALLEST)) | (codes > largest)).any():
        raise CodecError(f"payload holds a scale outside 0x{SMALLEST:04x}..0x{largest:04x}")
    if levels.size and (levels.min() < -top or levels.max() > top):
        raise CodecError(
            f"payload holds the level {levels.min()} or {levels.max()}; levels are -{top} to {top}"
        )
    peaks = _peaks(np.abs(levels), rows)
    if ((peaks > 0) != (codes > 0)).any() or ((peaks < top - 1) & (codes > 0)).any():
        raise CodecError(
            f"payload holds a row whose largest level is not {top}, or a row of zeros with a scale"
        )
    if not np.isfinite(statistics).all():
        raise CodecError("payload holds a statistic that is NaN or infinite")
