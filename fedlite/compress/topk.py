"""Top-k sparsification as a filter: only the largest live weights are sent, error feedback keeps the rest.

(Aji & Heafield 2017, §3; with memory: Stich 2018, Alg. 1.)
"""

import math
from dataclasses import dataclass

import numpy as np

from fedlite.compress.layout import Layout
from fedlite.compress.slots import Chance, Filtered, Memory
from fedlite.compress.zeroing import Zeroing, check_fraction
from fedlite.types import Array


@dataclass(frozen=True)
class TopK(Zeroing):
    """Filter: keeps the `fraction` (0 < fraction ≤ 1) of the matrices' live weights that is largest, at least one.

    Of all matrices together, or of each if `per_layer`. Weights as large as the smallest kept one are kept too, so the
    choice does not depend on any order. Other tensors are untouched.
    """

    fraction: float
    per_layer: bool = False

    def __post_init__(self) -> None:
        check_fraction(self.fraction)

    def apply(self, weights: Array, layout: Layout, chance: Chance, memory: Memory) -> Filtered:
        """The weights with all but the largest set to 0."""
        sizes = [np.abs(weights[span]) for _, span in layout.matrices]
        if not sizes:
            return Filtered(weights)
        common = 0.0 if self.per_layer else self._least(np.concatenate(sizes))
        kept = weights.copy()
        for (_, span), size in zip(layout.matrices, sizes, strict=True):
            least = self._least(size) if self.per_layer else common
            kept[span] = np.where(size >= least, weights[span], np.float32(0))
        return Filtered(kept)

    def _least(self, sizes: Array) -> float:
        """The smallest that is kept."""
        place = sizes.size - max(1, math.ceil(self.fraction * sizes.size))
        return float(np.partition(sizes, place)[place])
