"""Arithmetic and checks on name → array. Nothing here changes its arguments."""

import hashlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from fedlite.errors import UpdateError
from fedlite.types import Array, Masks, Params, Update

# Far above what training learns; models and optimizer moments of such values stay within float32.
LARGEST = 1e9


def add(params: Params, update: Update, scale: float = 1.0) -> dict[str, Array]:
    """params + scale · update, tensor by tensor."""
    return {name: value + np.float32(scale) * update[name] for name, value in params.items()}


def subtract(left: Params, right: Params) -> dict[str, Array]:
    """left − right: with (local, global) it is an update."""
    return {name: value - right[name] for name, value in left.items()}


def zeros_like(params: Params) -> dict[str, Array]:
    """Zeros of the same names and shapes."""
    return {name: np.zeros_like(value) for name, value in params.items()}


def apply_masks(params: Params, masks: Masks) -> dict[str, Array]:
    """W ⊙ M, of float32: pruned coordinates are exactly zero; tensors without a mask are untouched."""
    return {name: _masked(value, masks[name]) if name in masks else value for name, value in params.items()}


def _masked(value: Array, mask: NDArray[np.bool_]) -> Array:
    """By bits, as a product could be −0 or NaN and `np.where` guesses at each element where to take it from."""
    kept = np.negative(mask.astype(np.int32))  # all bits or none
    masked: Array = (np.asarray(value, np.float32).view(np.int32) & kept).view(np.float32)
    return masked


def size_bytes(params: Params) -> int:
    """Bytes of the dense float32 form: what every compression ratio is measured against."""
    return sum(value.size for value in params.values()) * 4


def check_like(got: Mapping[str, Array], like: Params, what: str = "update") -> None:
    """Raise UpdateError unless `got` has the names, order, shapes and dtype of `like`."""
    if list(got) != list(like):
        odd = sorted(set(got) ^ set(like))[:3] or "the order"
        raise UpdateError(f"{what} names differ from the model's: {odd}")
    for name, value in got.items():
        if value.shape != like[name].shape or value.dtype != np.float32:
            raise UpdateError(
                f"{what} {name!r} is {value.dtype} {value.shape}, the model has float32 {like[name].shape}"
            )


def check_finite(got: Mapping[str, Array], what: str = "update") -> None:
    """Raise UpdateError if any value is NaN, infinite, or beyond ±LARGEST."""
    for name, value in got.items():
        if not (_surely_small(value) or _is_small(value)):
            raise UpdateError(f"{what} {name!r} holds NaN, infinity or a value beyond ±{LARGEST:g}")


def _surely_small(value: Array) -> bool:
    """Whether the squares say at once that all is well: no sum of squares, rounded or not, is below one of them."""
    if value.dtype != np.float32:
        return False
    flat = value.reshape(-1)
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.dot(flat, flat) < 0.9 * LARGEST**2)  # false for NaN, and where a square is infinite


def _is_small(value: Array) -> bool:
    """All in ±LARGEST, without a temporary: minimum and maximum are NaN where anything is."""
    return bool(value.min(initial=0) >= -LARGEST and value.max(initial=0) <= LARGEST)


def digest(params: Params, masks: Masks | None = None) -> bytes:
    """SHA-256 (32 bytes) over names, shapes and values, and the masks: what 'the same model' means."""
    state = hashlib.sha256()
    for name, value in params.items():
        state.update(f"{name}\0{value.dtype.str}\0{value.shape}\0".encode())
        state.update(np.ascontiguousarray(value).data)
    for name, mask in sorted((masks or {}).items()):
        state.update(f"mask\0{name}\0{mask.shape}\0".encode() + np.packbits(mask).tobytes())
    return state.digest()
