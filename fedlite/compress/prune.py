"""Pruning masks by magnitude, and their packed form. W' = W ⊙ M is `tensors.apply_masks`.

(Han et al. 2015, "Learning both Weights and Connections"; global against layerwise: Blalock et al. 2020, §2.3)
"""

import struct
from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedlite.errors import CodecError, SettingsError
from fedlite.types import Array, Masks, Params, is_statistic

Flat = NDArray[np.bool_]


def keep_none(name: str) -> bool:
    """Prune every tensor that may be pruned: the default of `magnitude_masks`."""
    return False


def magnitude_masks(
    params: Params,
    sparsity: float,
    *,
    scope: Literal["global", "layer"] = "global",
    keep: Callable[[str], bool] = keep_none,
) -> dict[str, NDArray[np.bool_]]:
    """Masks that prune the smallest weights; True is live.

    Only tensors of two dimensions or more are pruned, never biases, norms or statistics, nor a name for which
    `keep` says so. Of n weights, round(sparsity · n) go: over all tensors together ("global") or within each
    ("layer"). The largest weight of each tensor always stays, so a tensor is never empty and at most
    n − (tensors) go. Equal magnitudes go in the order of the tensors and, within one, of C order, so everyone
    computes the same bits from the same weights. SettingsError unless 0 ≤ sparsity < 1.
    """
    if not 0 <= sparsity < 1:
        raise SettingsError(f"sparsity is {sparsity}; it must be in [0, 1)")
    if scope not in ("global", "layer"):
        raise SettingsError(f"scope is {scope!r}; it must be global or layer")
    chosen = {name: value for name, value in params.items() if prunable(name, value) and not keep(name)}
    if not chosen:
        return {}
    sizes = [_protected(value) for value in chosen.values()]
    if scope == "layer":
        flat = np.concatenate([_smallest([each], sparsity) for each in sizes])
    else:
        flat = _smallest(sizes, sparsity)
    return _split(~flat, chosen)


def prunable(name: str, value: Array) -> bool:
    """Whether a tensor is a weight matrix or kernel, the only kind that is pruned."""
    return value.ndim >= 2 and not is_statistic(name)


def sparsity_of(params: Params, masks: Masks) -> float:
    """The share of all learned weights, biases and norms included, that `masks` prune."""
    learned = sum(value.size for name, value in params.items() if not is_statistic(name))
    pruned = sum(mask.size - int(np.count_nonzero(mask)) for mask in masks.values())
    return pruned / learned


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
    parts = _split(bits[:count].astype(np.bool_), {name: like[name] for name in names})
    return {name: parts[name] for name in like if name in parts}


def _protected(value: Array) -> Array:
    """Magnitudes in C order, the tensor's largest made infinite so that it is never among the smallest."""
    size = np.abs(value).ravel()
    size[int(np.argmax(size))] = np.inf
    return size


def _smallest(sizes: list[Array], sparsity: float) -> Flat:
    """True for the round(sparsity · n) smallest, first index first among equals; infinite ones never."""
    flat = np.concatenate(sizes)
    count = min(round(sparsity * flat.size), flat.size - len(sizes))
    if count == 0:
        return np.zeros(flat.size, np.bool_)
    threshold = np.partition(flat, count - 1)[count - 1]
    pruned: Flat = flat < threshold
    ties = np.flatnonzero(flat == threshold)
    pruned[ties[: count - int(np.count_nonzero(pruned))]] = True
    return pruned


def _split(flat: Flat, like: Params) -> dict[str, Flat]:
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
