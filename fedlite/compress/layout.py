"""Which values of an update travel and in which order: both sides compute it from the model and its masks.

Live weights come first, tensor by tensor in the model's order and row-major inside a tensor, then the
statistics (`fedlite.types.is_statistic`). Pruned coordinates do not travel. docs/format.md has the bytes.
"""

import hashlib
import math
import struct
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fedlite.errors import SettingsError
from fedlite.types import Array, Masks, Params, Update, is_statistic

MIN_ROW = 16  # weights; a scale of its own would cost a shorter row more than an eighth of its bytes
MIN_MATRIX = 1024  # live weights; what is smaller, or has one dimension, is coded together


@dataclass(frozen=True, eq=False)
class Tensor:
    """A learned tensor as it travels: its live weights, row-major. Without a `mask` all are live.

    `name` is what filters remember it by.
    """

    shape: tuple[int, ...]
    mask: NDArray[np.bool_] | None = None
    name: str = ""

    @cached_property
    def live(self) -> int:
        """How many weights travel."""
        return math.prod(self.shape) if self.mask is None else int(np.count_nonzero(self.mask))

    @property
    def rows(self) -> int:
        """The first axis, of a tensor with two or more."""
        return self.shape[0]

    @property
    def columns(self) -> int:
        """Everything behind the first axis."""
        return math.prod(self.shape[1:])

    @cached_property
    def is_matrix(self) -> bool:
        """Whether there is enough of it, in two directions, for filters and contexts of its own."""
        return len(self.shape) >= 2 and self.columns >= 2 and self.live >= MIN_MATRIX

    @cached_property
    def channels(self) -> NDArray[np.int64]:
        """Live weights of each output channel (or of the tensor, where channels are short), all > 0."""
        count = channels_of(self.shape)
        if self.mask is None:
            live = np.full(count, math.prod(self.shape) // count, np.int64)
        else:
            live = np.count_nonzero(self.mask.reshape(count, -1), axis=1).astype(np.int64)
        return live[live > 0]

    @cached_property
    def places(self) -> NDArray[np.int64]:
        """Where live weights lie in the flat tensor; made on demand."""
        if self.mask is None:
            return np.arange(math.prod(self.shape))
        return np.flatnonzero(self.mask)


@dataclass(frozen=True, eq=False)
class Layout:
    """What a payload for one model and one set of masks holds.

    `tensors` are the learned ones with live weights, in order; `statistics` counts the others' values. `binding` is
    8 bytes that differ between models, orders of tensors and masks.
    """

    tensors: tuple[Tensor, ...]
    statistics: int
    binding: bytes

    @cached_property
    def weights(self) -> int:
        """Live weights of all tensors."""
        return sum(tensor.live for tensor in self.tensors)

    @cached_property
    def channels(self) -> NDArray[np.int64]:
        """Live weights of each output channel, in order."""
        return np.concatenate([np.zeros(0, np.int64), *(tensor.channels for tensor in self.tensors)])

    @cached_property
    def spans(self) -> tuple[slice, ...]:
        """Where each tensor's live weights lie among all."""
        ends = np.cumsum(self.sizes).tolist()
        return tuple(slice(end - t.live, end) for t, end in zip(self.tensors, ends, strict=True))

    @cached_property
    def matrices(self) -> tuple[tuple[Tensor, slice], ...]:
        """The tensors that filters choose from, and where they lie."""
        return tuple(pair for pair in zip(self.tensors, self.spans, strict=True) if pair[0].is_matrix)

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """Live weights of each tensor, in order."""
        return np.array([tensor.live for tensor in self.tensors], np.int64)


def layout_of(like: Params, masks: Masks) -> Layout:
    """The layout of this model under these masks. Raises SettingsError for a mask that does not fit."""
    check_masks(like, masks)
    learned = (Tensor(v.shape, masks.get(name), name) for name, v in like.items() if not is_statistic(name))
    statistics = sum(value.size for name, value in like.items() if is_statistic(name))
    return Layout(tuple(each for each in learned if each.live), statistics, _binding(like, masks))


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
