"""What every published method has in common: an update to bytes and back, nothing sent that both sides know.

Both sides know the model's names and shapes, the method's settings and the seed of shared chance (a rotation), so
no header, check value or length is counted for them: the kindest count.
"""

from typing import NamedTuple, Protocol

import numpy as np

from fedlite.types import Array, Params, Update


class Method(Protocol):
    """`seed` names the draws; the decoder is given the same."""

    def encode(self, update: Update, seed: int) -> bytes: ...

    def decode(self, payload: bytes, like: Params, seed: int) -> dict[str, Array]: ...


class Setting(NamedTuple):
    """A method at one of its settings; `kinder` where it is coded better than its paper does."""

    method: str
    setting: str
    codec: Method
    kinder: bool = False


def flat(update: Update) -> Array:
    """All values, one after the other."""
    return np.concatenate([value.reshape(-1) for value in update.values()])


def shaped(values: Array, like: Params) -> dict[str, Array]:
    """The inverse of `flat`."""
    ends = np.cumsum([value.size for value in like.values()])[:-1]
    parts = np.split(np.asarray(values, np.float32), ends)
    return {name: part.reshape(like[name].shape) for name, part in zip(like, parts, strict=True)}


def float_bytes(values: Array, dtype: str) -> bytes:
    """Values as little-endian `<f4` or `<f2`."""
    return np.asarray(values).astype(dtype).tobytes()


def floats(payload: bytes, dtype: str, count: int, offset: int = 0) -> Array:
    """The inverse of `float_bytes`."""
    return np.frombuffer(payload, dtype, count, offset).astype(np.float32)
