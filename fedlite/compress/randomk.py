"""Random-k as a filter: which weights travel follows from a seed, so their places cost nothing.

(Konečný et al. 2016, §3 "random mask"; Wangni et al. 2018 for the unbiased form.)
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fedlite.compress.layout import Layout, Tensor
from fedlite.compress.scramble import SEED_BYTES, draw_seed, smallest
from fedlite.compress.slots import Chance, Filtered, Memory
from fedlite.compress.zeroing import check_fraction
from fedlite.types import Array

_LARGEST = np.finfo(np.float32).max


@dataclass(frozen=True)
class RandomK:
    """Filter: of each matrix, a random `fraction` (0 < fraction ≤ 1) of the live weights, rounded up.

    The chosen are those of the smallest numbers in `scramble`'s order; they travel as a tensor of one dimension. The
    note is the seed. If `unbiased` they are divided by the fraction, so that the mean over all choices is the update.
    Nothing is owed then: what is read errs by more than the update itself, and feedback would amplify that.
    """

    fraction: float
    unbiased: bool = False
    note_size = SEED_BYTES

    def __post_init__(self) -> None:
        check_fraction(self.fraction)

    @property
    def key(self) -> str:
        """With the fraction."""
        return f"randomk:{float(self.fraction)!r}"

    def inner(self, layout: Layout) -> Layout:
        """Matrices become as short as they are then."""
        tensors = (Tensor((self._count(t),), name=t.name) if t.is_matrix else t for t in layout.tensors)
        return replace(layout, tensors=tuple(tensors))

    def memory(self, layout: Layout) -> Mapping[str, tuple[int, ...]]:
        """Nothing."""
        return {}

    def apply(self, weights: Array, layout: Layout, chance: Chance, memory: Memory) -> Filtered:
        """The chosen weights, and all of other tensors."""
        seed, parts = draw_seed(chance), [np.zeros(0, np.float32)]
        for tensor, span in zip(layout.tensors, layout.spans, strict=True):
            part = weights[span]
            if tensor.is_matrix:
                part = part[self._chosen(tensor, span, seed)]
                if self.unbiased:
                    larger = part * (tensor.live / np.float64(len(part)))
                    part = np.clip(larger, -_LARGEST, _LARGEST).astype(np.float32)
            parts.append(part)
        return Filtered(np.concatenate(parts), seed)

    def undo(self, weights: Array, layout: Layout, note: bytes) -> Array:
        """Zeros where nothing was chosen."""
        found, place = np.zeros(layout.weights, np.float32), 0
        for tensor, span in zip(layout.tensors, layout.spans, strict=True):
            size = self._count(tensor) if tensor.is_matrix else tensor.live
            part, place = weights[place : place + size], place + size
            if tensor.is_matrix:
                found[span][self._chosen(tensor, span, note)] = part
            else:
                found[span] = part
        return found

    def _count(self, tensor: Tensor) -> int:
        return math.ceil(self.fraction * tensor.live)

    def _chosen(self, tensor: Tensor, span: slice, seed: bytes) -> NDArray[np.bool_]:
        """Which live weights of the tensor."""
        return smallest(seed, span.start, span.stop, self._count(tensor))
