"""A layer's weight as int8, and how it learns: gradients scaled to its steps, rounded at random.

Per output channel one scale; real = scale · integer. What a gradient moves is most often far less than a step:
rounded at random it is right on average, and no more precise copy is kept.
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

PORTION = 2**15  # numbers taken at a time


@dataclass(eq=False)
class Weight:
    """`steps` (channels, numbers of each) int8 in ±LIMIT, `scale` (channels,) float32; changed in place."""

    steps: Tensor
    scale: Tensor

    def portions(self) -> list[slice]:
        """The channels, a few at a time."""
        channels, numbers = self.steps.shape
        step = max(1, PORTION // numbers)
        return [slice(start, min(start + step, channels)) for start in range(0, channels, step)]

    def real(self, rows: slice = slice(None)) -> Tensor:
        """Some channels in float32."""
        return self.steps[rows].float().mul_(self.scale[rows, None])


def to_integers(value: Array, mask: NDArray[np.bool_] | None = None) -> Weight:
    """The weight of a layer, (channels, …) float32, to the nearest steps; 0 where it is pruned."""
    rows = torch.from_numpy(
        np.require(value.reshape(len(value), -1), requirements="W")
    )  # torch warns of others
    live = None if mask is None else torch.from_numpy(mask.reshape(len(value), -1))
    weight = Weight(torch.empty(rows.shape, dtype=torch.int8), torch.empty(len(rows)))
    for part in weight.portions():
        real = rows[part] if live is None else rows[part] * live[part]
        scale = (real.abs().amax(1) / LIMIT).clamp(min=LEAST_STEP)
        weight.scale[part] = scale
        weight.steps[part] = torch.round(real / scale[:, None]).to(torch.int8)
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
        now = weight.real(rows)
        gradient = gradient + settings.weight_decay * now
        gradient += settings.proximal_mu * (now - torch.from_numpy(anchor[rows]))
    scale = weight.scale[rows, None]
    wanted = weight.steps[rows] - gradient * (settings.learning_rate / scale)
    if live is not None:
        wanted *= live
    peak = wanted.abs().amax(1, keepdim=True)
    if not bool((peak <= LIMIT).all()):
        grown = torch.where(peak <= LIMIT, torch.ones_like(peak), peak / LIMIT)
        weight.scale[rows] *= grown[:, 0]
        wanted /= grown
    wanted += torch.from_numpy(random.random(tuple(wanted.shape), dtype=np.float32))
    weight.steps[rows] = wanted.floor_().clamp_(-LIMIT, LIMIT).to(torch.int8)
