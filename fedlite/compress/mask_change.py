"""How masks changed, in few bytes: nothing at all where they did not.

One bit for each learned tensor, lowest bit first, 1 for those that have a mask afterwards; then, as levels 0 and 1 of
these tensors (`fedlite.compress.levels`), which weights were live before and are not now, or the other way round.
"""

import numpy as np
from numpy.typing import NDArray

from fedlite.compress import levels
from fedlite.compress.layout import Tensor
from fedlite.errors import CodecError
from fedlite.types import Masks, Params, is_statistic


def same(one: Masks, other: Masks) -> bool:
    """Whether both prune the same weights."""
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def pack_change(before: Masks, after: Masks, like: Params) -> bytes:
    """What makes `after` of `before`; both are masks of `like`."""
    if same(before, after):
        return b""
    names = _names(like)
    masked = np.array([name in after for name in names], np.bool_)
    flips = [_mask(before, name, like) != after[name] for name in names if name in after]
    flat = np.concatenate([np.zeros(0, np.int8), *(each.ravel().astype(np.int8) for each in flips)])
    tensors = tuple(Tensor(each.shape) for each in flips)
    return np.packbits(masked, bitorder="little").tobytes() + levels.encode(flat, tensors)


def unpack_change(payload: bytes, before: Masks, like: Params) -> dict[str, NDArray[np.bool_]]:
    """The masks afterwards; CodecError for bytes that no change has."""
    if not payload:
        return dict(before)
    names = _names(like)
    size = (len(names) + 7) // 8
    bits = np.unpackbits(np.frombuffer(payload[:size], np.uint8), bitorder="little")
    if len(bits) < len(names) or bits[len(names) :].any():
        raise CodecError(f"masks hold {len(payload)} bytes, which do not say which tensors have one")
    masked = [name for name, bit in zip(names, bits, strict=False) if bit]
    tensors = tuple(Tensor(like[name].shape) for name in masked)
    flips = np.zeros(sum(tensor.live for tensor in tensors), np.int8)
    levels.decode(payload[size:], tensors, flips)
    if ((flips != 0) & (flips != 1)).any():
        raise CodecError("masks change by something other than 0 and 1")
    ends = np.cumsum([tensor.live for tensor in tensors])[:-1]
    parts = np.split(flips.astype(np.bool_), ends) if tensors else []
    return {
        name: _mask(before, name, like) ^ part.reshape(like[name].shape)
        for name, part in zip(masked, parts, strict=True)
    }


def _names(like: Params) -> list[str]:
    return [name for name in like if not is_statistic(name)]


def _mask(masks: Masks, name: str, like: Params) -> NDArray[np.bool_]:
    return masks[name] if name in masks else np.ones(like[name].shape, np.bool_)
