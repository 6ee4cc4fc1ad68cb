"""Real numbers on few integers: symmetric or affine, one step for all or one per channel; and the min-max rule.

real ≈ scale · (level − zero_point). (Jacob et al. 2018, Eq. 1; per channel: Krishnamoorthi 2018, §2)
NumPy alone, for arrays that are stored or sent; `compress/quantize.py` rounds the same way inside a torch model.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedlite.errors import CodecError, SettingsError
from fedlite.types import Array

Levels = NDArray[np.uint8] | NDArray[np.int8]
LEAST_STEP = 2.0**-64  # a smaller scale counts as none and becomes 1, as in compress/quantize.py


@dataclass(frozen=True, eq=False)
class Rounded:
    """An array on `bits` bits. Scales are of shape (1, …) for the whole array, (channels, 1, …) per channel."""

    levels: Levels  # int8 if symmetric, uint8 if affine; of the array's shape
    scale: Array  # > 0
    zero_point: NDArray[np.int32]  # of the scale's shape
    bits: int

    def values(self) -> Array:
        """scale · (level − zero_point), float32."""
        steps = self.levels.astype(np.int32) - self.zero_point
        return np.asarray(self.scale * steps.astype(np.float32), np.float32)


def symmetric(values: Array, *, bits: int = 8, per_channel: bool = True) -> Rounded:
    """Levels −L … L with L = 2^(bits−1) − 1 and scale = max|v| / L: no value is clipped, and 0 stays 0.

    `per_channel` takes a scale for each index of the first dimension. Halves round to even. SettingsError for bits
    outside 2 … 8, NaN or infinity.
    """
    _check_bits(bits)
    limit = 2 ** (bits - 1) - 1
    low, high = _extremes(values, per_channel)
    scale = _step(np.maximum(-low, high) / np.float32(limit))
    levels = np.clip(np.rint(values / scale), -limit, limit).astype(np.int8)
    return Rounded(levels, scale, np.zeros(scale.shape, np.int32), bits)


def affine(
    values: Array,
    *,
    bits: int = 8,
    per_channel: bool = False,
    between: tuple[ArrayLike, ArrayLike] | None = None,
) -> Rounded:
    """Levels 0 … 2^bits − 1 over [min, max], widened to hold 0 and shifted so that 0 is on the grid. (Jacob §3.1)

    `between` is a range (low, high), as an observer found it, in place of the values' own; what is outside goes to
    the end. Halves round to even. SettingsError for bits outside 2 … 8, NaN or infinity.
    """
    _check_bits(bits)
    top = 2**bits - 1
    low, high = _extremes(values, per_channel)
    if between is not None:
        low, high = (np.broadcast_to(np.asarray(end, np.float32), low.shape) for end in between)
    low, high = np.minimum(low, np.float32(0)), np.maximum(high, np.float32(0))
    scale = _step((high - low) / np.float32(top))
    zero_point = np.clip(np.rint(-low / scale), 0, top).astype(np.int32)
    levels = np.clip(np.rint(values / scale) + zero_point, 0, top).astype(np.uint8)
    return Rounded(levels, scale, zero_point, bits)


@dataclass(frozen=True, eq=False)
class MinMax:
    """An array by the min-max rule: levels uint8 of its shape, 0 … 2^bits − 1, and the two ends, float32."""

    levels: NDArray[np.uint8]
    low: float
    high: float
    bits: int

    def values(self) -> Array:
        """The inverse: low + level / (2^bits − 1) · (high − low), float32. Both ends come back exactly."""
        share = self.levels / np.float64(2**self.bits - 1)
        return np.asarray(self.low * (1 - share) + self.high * share, np.float32)


def min_max(values: Array, bits: int) -> MinMax:
    """Q(v) = round((v − min) / (max − min) · (2^bits − 1)); an array of one value is all zeros.

    Unlike `affine`, 0 need not be a level. An error is at most half a step, (max − min) / (2^bits − 1) / 2. Halves
    round to even. SettingsError for bits outside 2 … 8, an empty array, NaN or infinity.
    """
    _check_bits(bits)
    low, high = (float(end.item()) for end in _extremes(values, per_channel=False))
    span = high - low or 1.0
    levels = np.rint((values.astype(np.float64) - low) / span * (2**bits - 1)).astype(np.uint8)
    return MinMax(levels, low, high, bits)


def pack(levels: NDArray[Any], bits: int) -> bytes:
    """Whole numbers 0 … 2^bits − 1, any shape, as ⌈count · bits / 8⌉ bytes: first level in the lowest bits.

    SettingsError for bits outside 1 … 8 or a level outside the range.
    """
    _check_bits(bits, least=1)
    flat = np.ascontiguousarray(levels).ravel()
    if flat.size and not (flat.min() >= 0 and flat.max() < 2**bits):
        raise SettingsError(f"levels are {flat.min()} to {flat.max()}; {bits} bits hold 0 to {2**bits - 1}")
    planes = np.unpackbits(flat.astype(np.uint8)[:, None], axis=1, count=bits, bitorder="little")
    return np.packbits(planes, bitorder="little").tobytes()


def unpack(payload: bytes, bits: int, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """What `pack` was given. CodecError unless the bytes are as many as it writes, with no bit set after the last."""
    _check_bits(bits, least=1)
    count = int(np.prod(shape, dtype=np.int64))
    if len(payload) != (size := packed_bytes(count, bits)):
        raise CodecError(f"payload holds {len(payload)} bytes, {size} expected")
    planes = np.unpackbits(np.frombuffer(payload, np.uint8), bitorder="little")
    if planes[count * bits :].any():
        raise CodecError("payload has bits set after the last level")
    rows = planes[: count * bits].reshape(count, bits)
    return np.packbits(rows, axis=1, bitorder="little").reshape(shape)


def packed_bytes(count: int, bits: int) -> int:
    """The length of what `pack` writes."""
    return -(-count * bits // 8)


def _extremes(values: Array, per_channel: bool) -> tuple[Array, Array]:
    """(min, max) of the array or of each channel, all dimensions kept."""
    if not values.size:
        raise SettingsError(f"an array of shape {values.shape} has no values to take a range from")
    if not np.isfinite(values).all():
        raise SettingsError("values hold NaN or infinity, which no integer stands for")
    values = values.astype(np.float32, copy=False)
    axes = tuple(range(int(per_channel), values.ndim))
    return values.min(axes, keepdims=True), values.max(axes, keepdims=True)


def _step(scale: NDArray[Any]) -> Array:
    return np.where(scale > LEAST_STEP, scale, 1).astype(np.float32)


def _check_bits(bits: int, least: int = 2) -> None:
    if type(bits) is not int or not least <= bits <= 8:
        raise SettingsError(f"bits is {bits!r}; a whole number from {least} to 8 is wanted")
