"""Top-k sparsification as a filter: only the largest live weights are sent, error feedback keeps the rest.

(Aji & Heafield 2017, §3; with memory: Stich 2018, Alg. 1.)
"""

import math
from dataclasses import dataclass

import numpy as np

from fedlite.compress.layout import Layout
from fedlite.compress.slots import Chance, Filtered, Memory
from fedlite.compress.zeroing import Zeroing
from fedlite.errors import SettingsError
from fedlite.types import Array


@dataclass(frozen=True)
class TopK(Zeroing):
    """Filter: keeps the `fraction` (0 < fraction ≤ 1) of live weights that is largest, at least one.

    Weights as large as the smallest kept one are kept too, so the choice does not depend on any order.
    """

    fraction: float

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise SettingsError(f"fraction {self.fraction} is not in (0, 1]")

    def apply(self, weights: Array, layout: Layout, chance: Chance, memory: Memory) -> Filtered:
        """The weights with all but the largest set to 0."""
        if weights.size == 0:
            return Filtered(weights)
        magnitudes = np.abs(weights)
        place = weights.size - max(1, math.ceil(self.fraction * weights.size))
        kept = magnitudes >= np.partition(magnitudes, place)[place]
        return Filtered(np.where(kept, weights, np.float32(0)))
