"""Sparse update: which layers and channels learn, and which of them pay under a budget of memory.

What stays still above the first layer that learns still passes the gradient on; what is below saves nothing.
(Lin et al. 2022, "On-Device Training Under 256KB Memory", §2.2.)
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedlite.errors import SettingsError
from fedlite.int8_training.plan import Plan


@dataclass(frozen=True)
class SparseUpdate:
    """The tensors that learn, by name; None: all. Of a tensor in `channels`, those output channels alone."""

    tensors: tuple[str, ...] | None = None
    channels: tuple[tuple[str, tuple[int, ...]], ...] = ()

    def resolve(self, plan: Plan) -> Mapping[str, NDArray[np.bool_] | None]:
        """Tensor → None, or True for each output channel that learns. SettingsError for what is not there."""
        known = [name for step in plan.steps for name in step.tensors]
        chosen = known if self.tensors is None else list(self.tensors)
        if odd := sorted((set(chosen) | {name for name, _ in self.channels}) - set(known)):
            raise SettingsError(f"the update names {odd[0]!r}, which the model has not; it has {known[:6]} …")
        if not chosen:
            raise SettingsError("the update names no tensor: nothing would learn")
        found: dict[str, NDArray[np.bool_] | None] = dict.fromkeys(chosen)
        state = plan.net.state_dict()
        for name, numbers in self.channels:
            count = len(state[name])
            if not numbers or min(numbers) < 0 or max(numbers) >= count:
                raise SettingsError(
                    f"channels of {name!r} are 0 to {count - 1}; the update names {numbers[:6]}"
                )
            some = np.zeros(count, bool)
            some[list(numbers)] = True
            found[name] = some
        return found


EVERYTHING = SparseUpdate()
