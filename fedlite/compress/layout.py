"""Which values of an update travel and in which order: both sides compute it from the model and its masks.

Live weights come first, tensor by tensor in the model's order and row-major inside a tensor, then the
statistics (`fedlite.types.is_statistic`). Pruned coordinates do not travel. docs/format.md has the bytes.
"""

import hashlib
import math
import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedlite.errors import SettingsError
from fedlite.types import Array, Masks, Params, Update, is_statistic

MIN_ROW = 16  # weights; a scale of its own would cost a shorter row more than an eighth of its bytes


@dataclass(frozen=True)
class Layout:
    """What a payload for one model and one set of masks holds.

    `channels` and `tensors` count the live weights of each output channel and of each tensor, in order, all
    > 0; both sum to `weights`. `binding` is 8 bytes that differ between models, orders of tensors and masks.
    """

    channels: NDArray[np.int64]
    tensors: NDArray[np.int64]
    weights: int
    statistics: int
    binding: bytes


def layout_of(like: Params, masks: Masks) -> Layout:
    """The layout of this model under these masks. Raises SettingsError for a mask that does not fit."""
    check_masks(like, masks)
    learned = [(value.shape, masks.get(name)) for name, value in like.items() if not is_statistic(name)]
    channels = [_live(shape, mask, channels_of(shape)) for shape, mask in learned]
    none = np.zeros(0, np.int64)
    tensors = np.array([live.sum() for live in channels if live.size], np.int64)
    statistics = sum(value.size for name, value in like.items() if is_statistic(name))
    return Layout(
        np.concatenate([none, *channels]), tensors, int(tensors.sum()), statistics, _binding(like, masks)
    )


def channels_of(shape: tuple[int, ...]) -> int:
    """How many runs of a tensor have a scale of their own: its first axis where that pays, otherwise one."""
    return shape[0] if len(shape) >= 2 and math.prod(shape) >= MIN_ROW * shape[0] > 0 else 1


def check_masks(like: Params, masks: Masks) -> None:
    """Raise SettingsError unless each mask is boolean and fits a learned tensor of the model."""
    for name, mask in masks.items():
        if name not in like or is_statistic(name):
            raise SettingsError(f"mask for {name!r}: the model has no such tensor that may be pruned")
        if mask.shape != like[name].shape or mask.dtype != np.bool_:
            raise SettingsError(f"mask {name!r} is {mask.dtype} {mask.shape}, want bool {like[name].shape}")


def gather(update: Update, masks: Masks) -> tuple[Array, Array]:
    """(live weights, statistics), each flat and in layout order."""
    weights = [
        value[masks[name]] if name in masks else value.reshape(-1)
        for name, value in update.items()
        if not is_statistic(name)
    ]
    statistics = [value.reshape(-1) for name, value in update.items() if is_statistic(name)]
    return _join(weights), _join(statistics)


def scatter(weights: Array, statistics: Array, like: Params, masks: Masks) -> dict[str, Array]:
    """The inverse of `gather`: tensors shaped like the model's, pruned coordinates exactly 0."""
    tensors: dict[str, Array] = {}
    done = {False: 0, True: 0}
    for name, model in like.items():
        kind = is_statistic(name)
        live = int(np.count_nonzero(masks[name])) if name in masks else model.size
        values = (statistics if kind else weights)[done[kind] : done[kind] + live]
        done[kind] += live
        if name in masks:
            tensors[name] = np.zeros(model.shape, np.float32)
            tensors[name][masks[name]] = values
        else:
            tensors[name] = values.reshape(model.shape)
    return tensors


def _live(shape: tuple[int, ...], mask: NDArray[np.bool_] | None, channels: int) -> NDArray[np.int64]:
    """Live weights of each channel of one tensor, without the channels that have none."""
    if mask is None:
        live = np.full(channels, math.prod(shape) // channels, np.int64)
    else:
        live = np.count_nonzero(mask.reshape(channels, -1), axis=1).astype(np.int64)
    return live[live > 0]


def _join(parts: list[Array]) -> Array:
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def _binding(like: Params, masks: Masks) -> bytes:
    """First 8 bytes of SHA-256 over the names, shapes and mask bits, each with its length in front."""
    state = hashlib.sha256()
    for name, value in like.items():
        text = name.encode()
        state.update(struct.pack(f"<H{len(text)}sB{value.ndim}I", len(text), text, value.ndim, *value.shape))
        if name in masks:
            state.update(b"\1" + np.packbits(masks[name]).tobytes())
        else:
            state.update(b"\0")
    return state.digest()[:8]
