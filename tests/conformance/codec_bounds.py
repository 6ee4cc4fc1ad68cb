"""How far from an update each serializer may be, from its definition: checked on what `decode` gives back."""

from collections.abc import Mapping

import numpy as np

from fedlite.compress.codec import Codec
from fedlite.compress.eden import Eden
from fedlite.compress.float16 import Float16
from fedlite.compress.float32 import Float32
from fedlite.compress.hadamard import Doubles
from fedlite.compress.int8 import Int8
from fedlite.compress.layout import MIN_MATRIX
from fedlite.compress.ring import Ring
from fedlite.compress.sign import Sign
from fedlite.compress.step import FINER, Step
from fedlite.types import Array, Masks, is_statistic
from tests.conformance.codec_cases import live

ROOM = 1 + 2**-20  # for float32's own rounding


def check_error(codec: Codec, update: Mapping[str, Array], got: Mapping[str, Array], masks: Masks) -> None:
    """Names, shapes, pruned coordinates, statistics, and the weights' own bound where nothing is filtered."""
    want = live(update, masks)
    assert list(got) == list(want)
    for name, value in want.items():
        assert got[name].shape == value.shape
        assert got[name].dtype == np.float32
        assert np.isfinite(got[name]).all()
        if name in masks:
            assert not got[name][~masks[name]].any()
        if is_statistic(name):
            check_statistic(codec, value, got[name])
    if not codec.filters:
        learned = {name: value for name, value in want.items() if not is_statistic(name)}
        _check_weights(codec, learned, got, masks)


def check_statistic(codec: Codec, want: Array, got: Array) -> None:
    """Exact; or the upper 16 bits, rounded to nearest: within 2^-8 (of 2^-126, below that); or fixed point."""
    error = np.abs(got.astype(np.float64) - want)
    if isinstance(codec.serializer, Float32 | Int8 | Float16):
        assert got.tobytes() == np.ascontiguousarray(want).tobytes()
    elif isinstance(codec.serializer, Ring):
        _check_ring(codec.serializer, want, got, 2.0**-16, 32)
    else:
        assert (error <= np.maximum(np.abs(want), 2.0**-126) * 2.0**-8).all()


def _check_weights(codec: Codec, want: Mapping[str, Array], got: Mapping[str, Array], masks: Masks) -> None:
    serializer = codec.serializer
    if isinstance(serializer, Step):
        _check_step(serializer, want, got, masks)
    for name, value in want.items():
        if isinstance(serializer, Float32):
            assert got[name].tobytes() == np.ascontiguousarray(value).tobytes()
        elif isinstance(serializer, Float16):
            _check_half(value, got[name])
        elif isinstance(serializer, Int8):
            _check_levels(serializer, value, got[name])
        elif isinstance(serializer, Ring):
            _check_ring(serializer, value, got[name], serializer.step, serializer.bits)
        elif isinstance(serializer, Sign | Eden):
            alive = masks.get(name, np.ones(value.shape, bool))
            check = _check_sign if isinstance(serializer, Sign) else _check_eden
            check(value[alive].astype(np.float64), got[name][alive].astype(np.float64))


def _check_levels(serializer: Int8, value: Array, got: Array) -> None:
    """Half a step (a whole one, rounded at random), where a step is 1/top of a row's peak and at most 1/256 more."""
    own = serializer.per_channel and value.ndim >= 2 and value.shape[0] and value.size >= 16 * value.shape[0]
    exact = value.reshape(value.shape[0] if own else 1, -1).astype(np.float64)
    peaks = np.abs(exact).max(axis=1, initial=0, keepdims=True)
    top = {"int8": 127, "int4": 7, "int2": 1}[serializer.key.removesuffix("-tensor")]
    bound = peaks / top * (1 + 2**-8) * (1 if serializer.stochastic else 0.5) * ROOM
    bound = np.where(peaks < top * 2.0**-126, peaks, bound)
    assert (np.abs(got.reshape(exact.shape) - exact) <= bound).all()


def _check_half(value: Array, got: Array) -> None:
    """Half a unit of 11 bits, of 2^-24 below 2^-14; cut at 65504."""
    wide = np.clip(value.astype(np.float64), -65504, 65504)
    assert (np.abs(got - wide) <= np.maximum(np.abs(wide) * 2.0**-11, 2.0**-25)).all()


def _check_ring(serializer: Ring, value: Array, got: Array, step: float, bits: int) -> None:
    """Half a step (a whole one at random), and float32's rounding; cut so that sums fit."""
    limit = (2 ** (bits - 1) - 1) // serializer.clients * step
    wide = np.clip(value.astype(np.float64), -limit, limit)
    bound = step * (1 if serializer.stochastic else 0.5) * ROOM + np.abs(wide) * 2.0**-23
    assert (np.abs(got - wide) <= bound).all()


def _check_sign(value: Doubles, got: Doubles) -> None:
    """Signs, at the mean magnitude to 8 bits; nothing at all in tensors of next to nothing."""
    mean = np.abs(value).mean() if value.size else 0.0
    assert (np.abs(np.abs(got) - mean) <= max(mean, 2.0**-126) * 2.0**-8).all()
    assert ((got < 0) == (value < 0)).all() or not got.any()


def _check_eden(value: Doubles, got: Doubles) -> None:
    """In the vector's direction as long as the vector: ⟨got, value⟩ = |value|², what the unbiased scale is made for.

    But for blocks whose scale is too large, or too small, for a float32.
    """
    square = float((value**2).sum())
    if 1e-60 < square < 1e60:
        np.testing.assert_allclose(float((value * got).sum()), square, rtol=1e-5)


def _check_step(serializer: Step, want: Mapping[str, Array], got: Mapping[str, Array], masks: Masks) -> None:
    """Within a step of the definition, and in the update's direction as long as the update (or 1.5 times as read).

    The step is `deviations` root mean squares of the matrices (of all, without one), at most 1.25 of the largest (or
    more, above 4 deviations), and an eighth in other tensors
    beside them. A level's weights lie between dead_zone below and 1.0 above it, and so does where they are put; both
    are stretched by at most 1.5. Where 32767 levels do not reach, in small tensors beside much smaller matrices,
    nothing is promised but the sign.
    """
    live_of = {n: int(masks[n].sum()) if n in masks else v.size for n, v in want.items()}
    matrices = [
        n for n, v in want.items() if v.ndim >= 2 and v[:1].size >= 2 and live_of[n] >= MIN_MATRIX
    ] or list(want)
    count = sum(live_of[n] for n in matrices)
    square = sum(float((want[n].astype(np.float64) ** 2).sum()) for n in matrices)
    peak = max((float(np.abs(want[n]).max(initial=0)) for n in matrices), default=0.0)
    passes = min(1.25, 0.99 / serializer.dead_zone) * max(1.0, serializer.deviations / 4) * peak
    step = min(serializer.deviations * (square / max(count, 1)) ** 0.5, passes, 2.0**112)
    if serializer.exact:
        step = max(step * 2**0.5, 2.0**-17)
    for name, value in want.items():
        unit = step / (1 if name in matrices else FINER)
        size = np.abs(value.astype(np.float64))
        near = size <= 32000 * unit
        error = np.abs(got[name] - value.astype(np.float64))
        assert (error <= np.maximum(unit, 2.0**-100) + 0.5 * (size + unit))[near].all()
        assert (np.sign(got[name]) * np.sign(value) >= 0).all()
        dead = size < serializer.dead_zone * unit / (2 if serializer.exact else 1) * (1 - 2**-20)
        assert not got[name][dead].any()
