"""A layer's weight in whole numbers, and how it learns: gradients scaled to its steps, rounded at random.

Per output channel one scale; real = scale · integer. The integer has 16 bits, of which the layer computes with
the upper 8: what a gradient moves is most often far less than a step of the 8, and the lower bits carry it.
(Quantization-aware scaling: Lin et al. 2022, "On-Device Training Under 256KB Memory", §2.1. The gradient with
respect to the integer is scale · G, and is multiplied by scale⁻² so that a step is in proportion to the weight as
it is in float32: the integer moves by learning rate · G / scale. Rounding at random: Gupta et al. 2015, §3.)
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedlite.compress.quantize import LEAST_STEP, LIMIT
from fedlite.train_settings import TrainSettings
from fedlite.types import Array

CARRIED = 256  # steps of the integer in one of the 8 bits that compute
HIGHEST = LIMIT * CARRIED
PORTION = 2**16  # numbers taken at a time


@dataclass(eq=False)
class Weight:
    """`integers` (channels, numbers of each) int16 in ±HIGHEST, `scale` (channels,) float32; changed in place."""

    integers: Tensor
    scale: Tensor

    def portions(self) -> list[slice]:
        """The channels, a few at a time."""
        channels, numbers = self.integers.shape
        step = max(1, PORTION // numbers)
        return [slice(start, min(start + step, channels)) for start in range(0, channels, step)]

    def steps(self, rows: slice = slice(None)) -> Tensor:
        """What the layer computes with: int8, −127 … 127, in steps of `step_size`."""
        return ((self.integers[rows] + CARRIED // 2) >> 8).to(torch.int8)

    def step_size(self, rows: slice = slice(None)) -> Tensor:
        """(channels, 1): real = step_size · steps."""
        return self.scale[rows, None] * CARRIED

    def real(self, rows: slice = slice(None)) -> Tensor:
        """What the layer computes with, in float32."""
        return self.steps(rows).float() * self.step_size(rows)

    def exact(self, rows: slice) -> Tensor:
        """With what is carried, in float32."""
        return self.integers[rows].float() * self.scale[rows, None]


def to_integers(value: Array, mask: NDArray[np.bool_] | None = None) -> Weight:
    """The weight of a layer, (channels, …) float32, to the nearest integers; 0 where it is pruned."""
    rows = torch.from_numpy(value.reshape(len(value), -1))
    live = None if mask is None else torch.from_numpy(mask.reshape(len(value), -1))
    weight = Weight(torch.empty(rows.shape, dtype=torch.int16), torch.empty(len(rows)))
    for part in weight.portions():
        real = rows[part] if live is None else rows[part] * live[part]
        scale = (real.abs().amax(1) / HIGHEST).clamp(min=LEAST_STEP)
        weight.scale[part] = scale
        weight.integers[part] = torch.round(real / scale[:, None]).to(torch.int16)
    return weight


def learn(
    weight: Weight,
    rows: slice,
    gradient: Tensor,
    settings: TrainSettings,
    anchor: Array,
    live: Tensor | None,
    random: np.random.Generator,
) -> None:
    """One step of SGD on some channels: `gradient`, and `live` (True where not pruned), are theirs.

    `anchor` is the whole weight at the round's start, (channels, numbers). A channel that would leave its range
    gets a wider step. What is not finite makes the channel so.
    """
    if settings.proximal_mu or settings.weight_decay:
        now = weight.exact(rows)
        gradient = gradient + settings.weight_decay * now
        gradient += settings.proximal_mu * (now - torch.from_numpy(anchor[rows]))
    scale = weight.scale[rows, None]
    wanted = weight.integers[rows] - gradient * (settings.learning_rate / scale)
    if live is not None:
        wanted *= live
    peak = wanted.abs().amax(1, keepdim=True)
    if not bool((peak <= HIGHEST).all()):
        grown = torch.where(peak <= HIGHEST, torch.ones_like(peak), peak / HIGHEST)
        weight.scale[rows] *= grown[:, 0]
        wanted /= grown
    wanted += torch.from_numpy(random.random(tuple(wanted.shape), dtype=np.float32))
    weight.integers[rows] = wanted.floor_().clamp_(-HIGHEST, HIGHEST).to(torch.int16)
