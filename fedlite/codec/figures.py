"""What a codec does to one update: bytes, nearness, speed."""

import time
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedlite.compress.codec import Codec
from fedlite.compress.presets import PRESETS
from fedlite.seeds import generator
from fedlite.tensors import size_bytes
from fedlite.types import Array, Masks, Update

MEGA = 1e6
LEAST, MOST = 3, 200  # calls that are timed


class Figures(NamedTuple):
    """One codec on one update. Ratio and speeds are against the bytes of dense float32.

    `cosine` is of the angle between the update and what is read, `error` the length of the difference against the
    update's; speeds are the best of several calls, for what else the machine does only ever slows.
    """

    codec: str
    parts: str
    payload_bytes: int
    ratio: float
    cosine: float
    error: float
    encode_mb_s: float
    decode_mb_s: float


def measure(
    name: str, codec: Codec, update: Update, *, seconds: float, seed: int, masks: Masks | None = None
) -> Figures:
    """Encode and decode `update` until `seconds` have passed. Raises as `Codec.encode`."""
    encode_times, decode_times = list[float](), list[float]()
    end = time.perf_counter() + seconds
    while len(encode_times) < LEAST or (time.perf_counter() < end and len(encode_times) < MOST):
        chance = generator(seed, "codec", name)
        begin = time.perf_counter()
        payload = codec.encode(update, masks=masks, generator=chance)
        middle = time.perf_counter()
        read = codec.decode(payload, update, masks=masks)
        decode_times.append(time.perf_counter() - middle)
        encode_times.append(middle - begin)
    size = size_bytes(update)
    cosine, error = nearness(update, read)
    return Figures(
        codec=name,
        parts=PRESETS.get(name, name),
        payload_bytes=len(payload),
        ratio=size / len(payload),
        cosine=cosine,
        error=error,
        encode_mb_s=size / MEGA / min(encode_times),
        decode_mb_s=size / MEGA / min(decode_times),
    )


def nearness(wanted: Update, got: Update) -> tuple[float, float]:
    """(cosine, relative error) of two updates; (1, 0) where both are zero, cosine 0 where one is."""
    one, other = _flat(wanted), _flat(got)
    length, far = float(np.linalg.norm(one)), float(np.linalg.norm(one - other))
    if far == 0:
        return 1.0, 0.0
    both = length * float(np.linalg.norm(other))
    cosine = float(one @ other) / both if both else 0.0
    return cosine, far / length if length else float("inf")


def _flat(update: Update) -> NDArray[np.float64]:
    parts: list[Array] = [value.reshape(-1) for value in update.values()]
    return np.concatenate([np.zeros(0, np.float32), *parts]).astype(np.float64)
