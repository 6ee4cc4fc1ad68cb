"""A threshold with hysteresis as a filter: what was worth sending stays so until it is clearly small.

Weights that hover around one threshold would come and go from round to round, each time at the cost of a new place
in the payload; two thresholds make them stay. (Schmitt 1938's trigger; thresholds in deviations: as Strom 2015 has
them absolute.)
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fedlite.compress.layout import Layout, Tensor
from fedlite.compress.slots import Chance, Filtered, Memory
from fedlite.compress.zeroing import Zeroing
from fedlite.errors import SettingsError
from fedlite.types import Array

_ENOUGH = 0.75  # of the largest weight


@dataclass(frozen=True)
class Threshold(Zeroing):
    """Filter: keeps matrices' weights from `high` root mean squares (of all matrices' weights) on.

    A weight that was sent last time is kept from `low` on; 0 ≤ low ≤ high. Where weights are so even that none is far
    beyond `high`, as what is owed becomes, three quarters of the largest is enough. Other tensors are untouched.
    Remembers, for each weight, whether it was sent: 1.0 or 0.0.
    """

    high: float = 2.0
    low: float = 1.0

    def __post_init__(self) -> None:
        if not (0 <= self.low <= self.high and 0 < self.high < np.inf):
            raise SettingsError(f"thresholds {self.high} and {self.low}: 0 ≤ low ≤ high and high > 0 wanted")

    def memory(self, layout: Layout) -> Mapping[str, tuple[int, ...]]:
        """One number for each weight of a matrix, live or not."""
        return {_name(tensor): tensor.shape for tensor, _ in layout.matrices}

    def apply(self, weights: Array, layout: Layout, chance: Chance, memory: Memory) -> Filtered:
        """The weights with the small ones set to 0."""
        parts = [weights[span].astype(np.float64) for _, span in layout.matrices]
        count = max(sum(part.size for part in parts), 1)
        unit = (sum(float(part @ part) for part in parts) / count) ** 0.5
        most = max((float(np.abs(part).max()) for part in parts), default=0.0)
        high = min(self.high * unit, _ENOUGH * most)
        low = min(self.low * unit, high)
        kept, after = weights.copy(), dict[str, Array]()
        for (tensor, span), part in zip(layout.matrices, parts, strict=True):
            size, before = np.abs(part), memory.get(_name(tensor))
            sent = (size >= high) & (size > 0)
            if before is not None and before.shape == tensor.shape:
                sent |= (before.reshape(-1)[tensor.places] > 0) & (size >= low)
            kept[span] = np.where(sent, weights[span], np.float32(0))
            flags = np.zeros(tensor.shape, np.float32)
            flags.reshape(-1)[tensor.places] = sent
            after[_name(tensor)] = flags
        return Filtered(kept, memory=after)


def _name(tensor: Tensor) -> str:
    return f"~threshold.{tensor.name}"
