"""Masks as bytes, and what names them: in one bit per weight, and in 32 bytes."""

import hashlib
import struct
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from fedlite.errors import CodecError
from fedlite.types import Masks, Params, is_statistic

Flat = NDArray[np.bool_]


def pack_masks(masks: Masks) -> bytes:
    """Masks in one bit per weight, the same bytes for the same masks in any order.

    uint16 count; per mask, by name: uint16 length and the name in UTF-8; then all masks' bits in that order, C
    order within one, first bit highest, the last byte filled with zeros. Integers are little-endian.
    """
    names = sorted(masks)
    encoded = [name.encode() for name in names]
    header = struct.pack("<H", len(names)) + b"".join(struct.pack("<H", len(each)) + each for each in encoded)
    bits = [masks[name].ravel() for name in names]
    return header + np.packbits(np.concatenate(bits) if bits else np.zeros(0, np.bool_)).tobytes()


def unpack_masks(payload: bytes, like: Params) -> dict[str, NDArray[np.bool_]]:
    """What `pack_masks` packed, in the order of `like`, whose shapes bound the memory taken.

    CodecError for anything `pack_masks` does not write for masks over tensors of `like`: a name that is not
    there, is a statistic, repeats or is out of order; missing bytes, bytes or set bits left over.
    """
    names, start = _read_names(payload, len(like))
    for name in names:
        if name not in like or is_statistic(name):
            raise CodecError(f"masks name {name[:80]!r}, which is no weight of the model")
    count = sum(like[name].size for name in names)
    if len(payload) - start != (count + 7) // 8:
        raise CodecError(f"masks hold {len(payload) - start} bytes of bits, {(count + 7) // 8} expected")
    bits = np.unpackbits(np.frombuffer(payload, np.uint8, offset=start))
    if bits[count:].any():
        raise CodecError("masks have bits set after the last weight")
    parts = split(bits[:count].astype(np.bool_), {name: like[name] for name in names})
    return {name: parts[name] for name in like if name in parts}


def mask_id(masks: Masks) -> bytes:
    """SHA-256 (32 bytes) over names, shapes and bits: two who have the same hold the same live coordinates."""
    state = hashlib.sha256(b"fedlite.masks.v1\0" + pack_masks(masks))
    for name in sorted(masks):  # the packed bits of (2, 3) and of (3, 2) are the same
        state.update(struct.pack(f"<B{masks[name].ndim}Q", masks[name].ndim, *masks[name].shape))
    return state.digest()


def split(flat: Flat, like: Params) -> dict[str, Flat]:
    """One array per tensor of `like`, in its shape, each with memory of its own."""
    ends = np.cumsum([value.size for value in like.values()])[:-1]
    parts = np.split(flat, ends) if like else []
    return {name: part.reshape(like[name].shape).copy() for name, part in zip(like, parts, strict=True)}


def _read_names(payload: bytes, most: int) -> tuple[list[str], int]:
    """(names, where the bits begin)."""
    names: list[str] = []
    try:
        (count,) = struct.unpack_from("<H", payload)
        start = 2
        if count > most:
            raise CodecError(f"masks name {count} tensors, the model has {most}")
        for _ in range(count):
            (length,) = struct.unpack_from("<H", payload, start)
            name = payload[start + 2 : start + 2 + length]
            start += 2 + length
            names.append(name.decode())
    except (struct.error, UnicodeDecodeError) as error:
        raise CodecError(f"the header of these masks is damaged: {error}") from error
    if start > len(payload) or any(a >= b for a, b in pairwise(names)):
        raise CodecError("the header of these masks is cut short, or its names repeat or are out of order")
    return names, start
