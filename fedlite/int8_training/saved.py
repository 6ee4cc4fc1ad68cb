"""What is kept of an activation until the gradient comes back: a byte for each number, a bit for each mask."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedlite.compress.quantize import LEVELS, RANGE_MOMENTUM, Grid, activation_grid

PORTION = 2**15  # numbers taken at a time, at least an example


@dataclass(frozen=True, eq=False)
class Saved:
    """A layer's input on its uint8 grid; and where it was within the grid, or None if it was everywhere."""

    steps: Tensor  # (examples, …) uint8
    grid: Grid
    inside: NDArray[np.uint8] | None

    def real(self, part: slice) -> Tensor:
        """Some examples in float32."""
        return self.steps[part].float().sub_(self.grid.zero_point).mul_(self.grid.scale)

    def clip(self, gradient: Tensor, part: slice) -> Tensor:
        """The gradient of some examples, passed straight through where the value was within the grid."""
        return gradient if self.inside is None else mask_bits(gradient, self.inside[part])

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.steps.nbytes + (0 if self.inside is None else self.inside.nbytes)


def portions(examples: int, numbers: int, portion: int = PORTION) -> list[slice]:
    """A batch, a few examples at a time; `numbers` are held for each, and `portion` altogether."""
    step = max(1, portion // numbers)
    return [slice(start, min(start + step, examples)) for start in range(0, examples, step)]


def moved(act_range: Tensor, value: Tensor) -> Tensor:
    """The activation range after a batch, as int8-aware training in float32 moves it."""
    seen = torch.stack(torch.aminmax(value))
    if not bool((act_range != 0).any()):
        return seen
    return RANGE_MOMENTUM * act_range + (1 - RANGE_MOMENTUM) * seen


def save(value: Tensor, act_range: Tensor) -> Saved:
    """`value`, (examples, …), on the grid of `act_range`; halves go to even."""
    grid = activation_grid(act_range)
    steps = torch.empty(value.shape, dtype=torch.uint8)
    inside: list[NDArray[np.uint8]] = []
    clipped = False
    for part in portions(len(value), value[0].numel()):
        wanted = (value[part] / grid.scale).round_().add_(grid.zero_point)
        fits = (wanted >= 0) & (wanted <= LEVELS)
        clipped = clipped or not bool(fits.all())
        inside.append(bits(fits))
        steps[part] = wanted.clamp_(0, LEVELS).to(torch.uint8)
    return Saved(steps, grid, np.concatenate(inside) if clipped else None)


def bits(mask: Tensor) -> NDArray[np.uint8]:
    """A mask, (examples, …) bool, as bits: (examples, bytes)."""
    return np.packbits(mask.numpy().reshape(len(mask), -1), axis=1)


def mask_bits(gradient: Tensor, mask: NDArray[np.uint8]) -> Tensor:
    """`gradient`, (examples, …), where the mask has a one; else 0."""
    live = np.unpackbits(mask, axis=1, count=gradient[0].numel())
    return gradient * torch.from_numpy(live).reshape(gradient.shape)
