"""How far from an update each serializer may be, from its definition: checked on what `decode` gives back."""

from collections.abc import Mapping

import numpy as np

from fedlite.compress.codec import Codec
from fedlite.compress.float32 import Float32
from fedlite.compress.int8 import Int8
from fedlite.compress.layout import MIN_MATRIX
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
    """Exact, or the upper 16 bits, rounded to nearest: within 2^-8 (of 2^-126, below that)."""
    if isinstance(codec.serializer, Float32 | Int8):
        assert got.tobytes() == np.ascontiguousarray(want).tobytes()
    else:
        assert (np.abs(got.astype(np.float64) - want) <= np.maximum(np.abs(want), 2.0**-126) * 2.0**-8).all()


def _check_weights(codec: Codec, want: Mapping[str, Array], got: Mapping[str, Array], masks: Masks) -> None:
    serializer = codec.serializer
    if isinstance(serializer, Step):
        _check_step(serializer, want, got, masks)
    for name, value in want.items():
        if isinstance(serializer, Float32):
            assert got[name].tobytes() == np.ascontiguousarray(value).tobytes()
        elif isinstance(serializer, Int8):
            _check_levels(serializer, value, got[name])


def _check_levels(serializer: Int8, value: Array, got: Array) -> None:
    """Half a step (a whole one, rounded at random), where a step is 1/127 of a row's peak and at most 1/256 more."""
    own = serializer.per_channel and value.ndim >= 2 and value.shape[0] and value.size >= 16 * value.shape[0]
    exact = value.reshape(value.shape[0] if own else 1, -1).astype(np.float64)
    peaks = np.abs(exact).max(axis=1, initial=0, keepdims=True)
    bound = peaks / 127 * (1 + 2**-8) * (1 if serializer.stochastic else 0.5) * ROOM
    bound = np.where(peaks < 127 * 2.0**-126, peaks, bound)
    assert (np.abs(got.reshape(exact.shape) - exact) <= bound).all()


def _check_step(serializer: Step, want: Mapping[str, Array], got: Mapping[str, Array], masks: Masks) -> None:
    """Within a step of the definition, and in the update's direction as long as the update (or 1.5 times as read).

    The step is `deviations` root mean squares of the matrices (of all, without one) and an eighth in other tensors
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
    step = min(serializer.deviations * (square / max(count, 1)) ** 0.5, 2.0**112)
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
