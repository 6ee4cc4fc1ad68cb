"""What int8 training learned, as float32 params that are computed when they are asked for.

A device holds the round's model in float32 anyway. Beside it stand the integers; a tensor of the result is the
one given plus what its integers moved. So what rounding the given weights lost is not lost to the federation,
and no second float32 model is needed to send an update: one tensor at a time will do.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from fedlite.int8_training.weights import Weight, to_integers
from fedlite.types import Array, Masks, Params


class Trained(Mapping[str, Array]):
    """name → float32 array, in the order of the params given; each look-up makes an array of its own."""

    def __init__(
        self,
        given: Params,
        weights: Mapping[str, Weight],
        rest: Mapping[str, Tensor],
        masks: Masks,
        learned: frozenset[str],
    ) -> None:
        self._given, self._weights, self._rest = given, weights, rest
        self._masks, self._learned = masks, learned

    def __getitem__(self, name: str) -> Array:
        """given + (integers now − integers of what was given) · scale; pruned coordinates are zero."""
        given = self._given[name]
        mask = self._masks.get(name)
        if name not in self._weights:
            return self._rest[name].numpy().copy()
        out = np.array(given) if mask is None else np.where(mask, given, np.float32(0))
        if name not in self._learned:
            return out
        now, before = self._weights[name], to_integers(given, mask)
        rows = torch.from_numpy(out.reshape(len(out), -1))
        for part in now.portions():
            rows[part] += now.real(part) - before.real(part)
        return out

    def __iter__(self) -> Iterator[str]:
        """The params' names, in order."""
        return iter(self._given)

    def __len__(self) -> int:
        """How many tensors."""
        return len(self._given)
